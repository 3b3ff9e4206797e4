"""The quick checks that planted bugs must not pass; run without a bug, all do.

Each is a few seconds of what the suite does at length, by the same functions.
"""

from tests.mutation_checks import laws
from tests.mutation_checks import parts
from tests.mutation_checks import texts

CHECKS = {
    "output laws": laws.output_laws,
    "padded drafts": laws.padded_drafts,
    "peaked draft in float32": laws.peaked_draft,
    "ragged tree laws": laws.ragged_tree_laws,
    "joint laws": laws.joint_laws,
    "greedy blocks": laws.greedy_blocks,
    "laws of drafts": laws.draft_laws,
    "trees of a beam": laws.beam_trees,
    "trees grown by confidence": laws.grown_trees,
    "chains of adaptive length": laws.adaptive_chains,
    "active sequences": laws.active_sequences,
    "lossy laws": laws.lossy_laws,
    "laws in a batch": laws.two_costs,
    "text of iid trees": texts.iid_text,
    "text of distinct trees": texts.distinct_text,
    "penalised text": texts.penalised_text,
    "warped text": texts.warped_text,
    "logits of a tree": texts.tree_logits,
    "greedy text": texts.greedy_text,
    "draft equal to target": texts.draft_equal_to_target,
    "deferred temperature": texts.deferred_temperature,
    "budget": texts.budget,
    "end of text": texts.end_of_text,
    "coupled drafts": texts.coupled_drafts,
    "text beside riders": texts.text_beside_riders,
    "stable pairs": parts.stable_pairs,
    "drafts of a feature net": parts.feature_drafts,
    "small vocabulary": parts.small_vocabulary,
    "draws from a small vocabulary": parts.draws_from_a_small_vocabulary,
    "loaded vocabulary": parts.loaded_vocabulary,
    "written vocabulary": parts.written_vocabulary,
    "levels without a forward": parts.levels_without_a_forward,
    "laws of blocks": parts.laws_of_blocks,
    "grounds of heads": parts.grounds_of_heads,
    "gates of rows": parts.gates_of_rows,
    "early exits": parts.early_exits,
    "sight of the target": parts.sight_of_the_target,
    "superposed paths": parts.superposed_paths,
    "suffix matches": parts.suffix_matches,
    "audited drafts": parts.audited_drafts,
    "stored features": parts.stored_features,
    "narrow products": parts.narrow_products,
}
