"""Real bugs of speculative decoders, each as an edit of the code under test.

A bug is one fragment of source text and what the bug makes of it. The edited
function replaces the original while the bug is planted. A fragment that is no
longer found is an error, so a bug cannot silently stop being planted.
"""

import contextlib
import dataclasses
import importlib
import inspect
import textwrap
from unittest import mock

import jax


@dataclasses.dataclass(frozen=True)
class Bug:
  """One edit.

  Attributes:
    name: what is wrong.
    where: "module:function" or "module:Class.method", below `spec_jax`.
    right: fragment of the source, occurring once.
    wrong: what replaces it.
    suspects: names of checks, tried in this order by the test.
    rules: whose laws "output laws" goes over; () = all that bugs edit.
  """

  name: str
  where: str
  right: str
  wrong: str
  suspects: tuple[str, ...]
  rules: tuple[str, ...] = ()


@contextlib.contextmanager
def planted(bug: Bug):
  """Runs its body with the bug in place; compiled programs are dropped."""
  module_name, path = bug.where.split(":")
  module = importlib.import_module(f"spec_jax.{module_name}")
  *owners, attribute = path.split(".")
  owner = module
  for name in owners:
    owner = getattr(owner, name)
  original = getattr(owner, attribute)
  with contextlib.ExitStack() as stack:
    edited = _edit(module, original, bug)
    stack.enter_context(mock.patch.object(owner, attribute, edited))
    for table in vars(module).copy().values():  # It may be listed by name too.
      if isinstance(table, dict):
        named = {k: edited for k, v in table.items() if v is original}
        stack.enter_context(mock.patch.dict(table, named))
    jax.clear_caches()
    stack.callback(jax.clear_caches)
    yield


def _edit(module, function, bug):
  source = textwrap.dedent(inspect.getsource(function))
  if source.count(bug.right) != 1:
    raise ValueError(
        f"bug {bug.name!r}: {bug.where} has {source.count(bug.right)} places"
        f" that read {bug.right!r}, expected 1.")
  scope = dict(vars(module))
  exec(source.replace(bug.right, bug.wrong), scope)  # pylint: disable=exec-used
  edited = scope[function.__name__]
  # Calls between the functions of a module go through its namespace.
  return type(edited)(edited.__code__, vars(module), edited.__name__,
                      edited.__defaults__, edited.__closure__)


BUGS = (
    Bug("q ignores the temperature it was drawn at",
        "drafters.draft_model:_Grower.draw_level",
        "self._laws.append(p)",
        "self._laws.append(jax.nn.softmax(logits, -1))", ("warped text",)),
    Bug("a deferred temperature warps the draft's law only",
        "core.system:judge", "sampling, tree, logits, ctx",
        "sampling, tree, out.logits, ctx", ("deferred temperature",)),
    Bug("a deferred temperature of 0 is taken for another",
        "core.sampling:Deferred.decide", "self.temperature == 0",
        "self.temperature < 0", ("deferred temperature",)),
    Bug("q is taken before truncation",
        "drafters.draft_model:_Grower.draw_level",
        "self._laws.append(p)",
        "self._laws.append(jax.nn.softmax("
        "logits / self._sampling.temperature, -1))", ("warped text",)),
    Bug("correction drawn from p instead of the residual",
        "verifiers.couplings:sequential",
        "normalise(jnp.maximum(p - q, 0), p)", "p", ("output laws",),
        ("recursive",)),
    Bug("residual not renormalised", "verifiers.couplings:sequential",
        "normalise(jnp.maximum(p - q, 0), p)", "jnp.maximum(p - q, 0)",
        ("output laws",), ("recursive",)),
    Bug("tried token stays in q without replacement",
        "verifiers.recursive:RecursiveWithoutReplacement.law",
        "return rest / jnp.where(total > 0, total, 1)", "return q",
        ("output laws",), ("recursive_without_replacement",)),
    Bug("remainder of a peaked q not renormalised",
        "verifiers.recursive:RecursiveWithoutReplacement.law",
        "return rest / jnp.where(total > 0, total, 1)",
        "return couplings.normalise(rest, rest)", ("peaked draft in float32",)),
    Bug("repeated iid drafts dropped", "verifiers.couplings:sequential",
        "token = drafts[k]",
        "token = drafts[k]; is_draft = is_draft.at[k].set("
        "is_draft[k] & ~(drafts[:k] == token).any())", ("output laws",),
        ("recursive",)),
    Bug("later drafts held against the law of the first",
        "verifiers.recursive:Recursive.law", "q[(k + 1) % len(q)]", "q[0]",
        ("output laws",), ("recursive",)),
    Bug("padding may be accepted", "verifiers.couplings:sequential",
        "jnp.where(is_draft[k], acceptance_ratio(p, q, token), 0)",
        "acceptance_ratio(p, q, token)", ("ragged tree laws",)),
    Bug("siblings drawn with one key", "drafters.draft_model:noise",
        "jnp.asarray(numbers, jnp.int32)",
        "jnp.asarray(levels, jnp.int32)", ("text of iid trees",)),
    Bug("draft noise frozen over positions", "drafters.draft_model:noise",
        "key, position, types.Role.DRAFT", "key, 0, types.Role.DRAFT",
        ("text of iid trees",)),
    Bug("all noise frozen over positions", "core.keys:at",
        "data = (position, int(role))", "data = (position * 0, int(role))",
        ("text of iid trees",)),
    Bug("rows share one key", "core.keys:row_keys",
        "jnp.arange(first_row, first_row + num_rows)",
        "jnp.zeros((num_rows,), jnp.int32)", ("text of iid trees",)),
    Bug("correction taken from the parent's logits",
        "verifiers.walk:_walk_row", "p_logits[node]",
        "p_logits[jnp.maximum(tree.parents[node], 0)]",
        ("text of iid trees",)),
    Bug("keys and values of rejected nodes kept", "core.system:judge",
        "commit(out.fresh, verdict.path,",
        "commit(out.fresh, jnp.broadcast_to(jnp.arange("
        "verdict.path.shape[1])[None], verdict.path.shape),",
        ("greedy text",)),
    Bug("cache keeps one token too many", "core.system:judge",
        "verdict.path, verdict.count),",
        "verdict.path, verdict.count + 1),", ("greedy text",)),
    Bug("tree positions one too high", "core.tree:positions",
        "length[:, None] - 1", "length[:, None]", ("logits of a tree",)),
    Bug("siblings see each other", "core.tree:ancestor_mask",
        "(parents[:, :, None] == nodes)",
        "(parents[:, :, None] == nodes)"
        " | (parents[:, :, None] == parents[:, None, :])",
        ("logits of a tree",)),
    Bug("draft cache misses an accepted leaf",
        "drafters.level_drafter:ModelDrafter.feed_root",
        "slots >= cache.length[:, None]",
        "slots >= ctx.length[:, None] - 1", ("draft equal to target",)),
    Bug("budget ignored", "core.system:stop",
        "jnp.minimum(verdict.count, state.limit - state.length)",
        "verdict.count", ("budget",)),
    Bug("text goes on behind its end", "core.system:stop",
        "jnp.where(ended, jnp.argmax(is_end, -1) + 1, count)", "count",
        ("end of text",)),
    Bug("q read at the child instead of its parent", "verifiers.walk:_walk_row",
        "tree.q[node]", "tree.q[drafts[0]]", ("text of iid trees",)),
    Bug("q stored in 16 bits", "drafters.draft_model:_Grower.draw_level",
        "self._laws.append(p)",
        "self._laws.append(p.astype(jnp.bfloat16).astype(p.dtype))",
        ("laws of drafts",)),
    Bug("candidates tried independently, undiscounted",
        "verifiers.k_seq:KSeq.law",
        "rho = self.division_factor(p, q, is_draft)",
        "rho = jnp.ones((), p.dtype)", ("output laws",), ("k_seq",)),
    Bug("rho not solved anew for fewer drafts", "verifiers.k_seq:KSeq.law",
        "self.division_factor(p, q, is_draft)",
        "self.division_factor(p, q, jnp.ones_like(is_draft))",
        ("padded drafts",)),
    Bug("residual of K-SEQ counts padding", "verifiers.k_seq:KSeq.law",
        "_expected_tries(common.sum(), is_draft)",
        "_expected_tries(common.sum(), jnp.ones_like(is_draft))",
        ("ragged tree laws",)),
    Bug("rest of a greedy draw not renormalised",
        "verifiers.greedy_drafts:MdsdGreedy.law",
        "_renormalise(q.at[tops].set(0, mode=\"drop\"))",
        "q.at[tops].set(0, mode=\"drop\")", ("output laws",),
        ("mdsd_greedy",)),
    Bug("hub held against one pair's rest, not all pairs'",
        "verifiers.greedy_drafts:SpecHub._pair_law",
        "left_last = jnp.maximum(last - outside, 0).sum()",
        "left_last = jnp.maximum(last - outside, 0)[other]",
        ("output laws",), ("spechub",)),
    Bug("second draft's law taken to be the first's",
        "verifiers.canonical_is:CanonicalIS._several",
        "q if q.ndim == 1 else q[k]", "q if q.ndim == 1 else q[0]",
        ("output laws",), ("canonical_is",)),
    Bug("selected draft held against q, not the winner's law",
        "verifiers.race_transport:emitted_law",
        "couplings.acceptance_ratio(p, winner, drafts)",
        "couplings.acceptance_ratio(p, q, drafts)", ("output laws",),
        ("race_transport",)),
    Bug("chances of slots taken for those of nodes",
        "verifiers.race:winner_law", "race.at_tokens(of_nodes)",
        "race.at_tokens(chances)", ("output laws",), ("race_transport",)),
    Bug("costly rules fall back to one draft in a batch",
        "verifiers.couplings:_either",
        "_either(jnp.any(pred), over(select)",
        "_either(jnp.all(pred), over(select)", ("laws in a batch",)),
    Bug("block rule done token by token",
        "verifiers.block:BlockVerification.products",
        "ratio = entry[parents[node]] * p_token[node] / q_token[node]",
        "ratio = p_token[node] / q_token[node]", ("joint laws",)),
    Bug("block judged by the laws before its tokens",
        "verifiers.block:BlockVerification.masses",
        "entry[:, None] * p - q", "entry[:, None] * p[jnp.maximum("
        "row.parents, 0)] - q[jnp.maximum(row.parents, 0)]", ("joint laws",)),
    Bug("end of a short block judged like its middle",
        "verifiers.block:BlockVerification.masses",
        "jnp.where(has_child, joint.reclaimed(left, mass), mass)",
        "joint.reclaimed(left, mass).at[-1].set(mass[-1])",
        ("joint laws",)),
    Bug("what a greedy block asks of later rounds forgotten",
        "verifiers.block:GreedyBlockVerification.settle",
        "return Debts(ratio[1:].astype(carry.ratio.dtype), left[1:])",
        "return carry", ("greedy blocks",)),
    Bug("newer debts of greedy blocks drop the older ones",
        "verifiers.block:GreedyBlockVerification.settle",
        "jnp.append(carry.left, depth.max())",
        "jnp.append(jnp.zeros_like(carry.left), depth.max())",
        ("greedy blocks",)),
    Bug("residual of a block not scaled by its mass",
        "verifiers.block:BlockVerification.next_law",
        "jnp.maximum(mass * p - q, 0)", "jnp.maximum(p - q, 0)",
        ("joint laws",)),
    Bug("traversal forgets that the children failed",
        "verifiers.traversal:TraversalVerification._try_children",
        "mass = joint.reclaimed(residual.sum(), mass)", "pass",
        ("joint laws",)),
    Bug("bonus of a traversal from the target itself",
        "verifiers.traversal:TraversalVerification.next_law",
        "self._try_children(p, q, mass, drafts, is_draft)[2]", "p",
        ("joint laws",)),
    Bug("distinct siblings sorted by likelihood",
        "core.sampling:first_k_to_ring",
        "return tokens.astype(jnp.int32), rates > 0",
        "order = jnp.argsort(-jnp.take_along_axis(probs, tokens, -1), -1)\n"
        "  tokens = jnp.take_along_axis(tokens, order, -1)\n"
        "  return tokens.astype(jnp.int32), rates > 0",
        ("text of distinct trees",)),
    Bug("the most likely token looked for from the wrong end",
        "core.sampling:most_likely", "- 1).min(-1)", "- 1).max(-1)",
        ("greedy text",)),
    Bug("penalty blind to the tokens of the round",
        "verifiers.walk:_walk_row", "seen = seen.at[token].set(True)", "pass",
        ("penalised text",)),
    Bug("all rows keep as much as the first", "core.system:judge",
        "verdict.path, verdict.count),",
        "verdict.path, jnp.full_like(verdict.count, verdict.count[0])),",
        ("greedy text",)),
    Bug("of equal sequences only the first stays",
        "verifiers.active_set:pool",
        "jnp.where(tree.parents < 0, -1, first)", "tree.parents",
        ("active sequences",)),
    Bug("beam children not bound to their parent's noise",
        "trees.stochastic_beam:step",
        "truncate(log_probs - jnp.log(clocks), beam.scores[:, None])",
        "log_probs - jnp.log(clocks)", ("trees of a beam",)),
    Bug("beam ranked by likelihood", "trees.stochastic_beam:step",
        "jax.lax.top_k(scores.reshape(-1), width)",
        "jax.lax.top_k(log_probs.reshape(-1), width)", ("trees of a beam",)),
    Bug("lenience redraws from p", "verifiers.lossy.lenience:Lenience.law",
        "couplings.normalise(jnp.maximum(p - q, 0), p)", "p",
        ("lossy laws",)),
    Bug("entropy threshold with epsilon and delta swapped",
        "verifiers.lossy.typical:Typical.threshold",
        "self.epsilon, self.delta * jnp.exp",
        "self.delta, self.epsilon * jnp.exp", ("lossy laws",)),
    Bug("neighbourhood over its budget",
        "verifiers.lossy.relaxed:Relaxed.borrowed",
        "(mass > tiny) & (mass <= budget)", "mass > tiny", ("lossy laws",)),
    Bug("sampled children kept for their own probability",
        "trees.dynamic:MostReached.children", "jnp.log(rest), -jnp.inf)",
        "jnp.log(probs), -jnp.inf)", ("trees grown by confidence",)),
    Bug("a place's noise is its parent's", "trees.growth:_child_keys",
        "jax.vmap(jax.vmap(jax.random.fold_in))(own, ranks + 1)", "own",
        ("trees grown by confidence",)),
    Bug("a token the draft is unsure of is taken back",
        "drafters.chain_draft_model:ChainDraftModel._draw",
        "loop.is_going.astype(jnp.int32)",
        "(loop.is_going & proceeds).astype(jnp.int32)",
        ("chains of adaptive length",)),
    Bug("coupled noise redrawn", "drafters.draft_model:noise",
        "types.Role.EMIT", "types.Role.DRAFT", ("coupled drafts",)),
    Bug("nodes of the tree see the riders", "core.system:forward",
        "jnp.pad(mask, ((0, 0), (0, 0), (0, num_riders)))",
        "jnp.pad(mask, ((0, 0), (0, 0), (0, num_riders)),"
        " constant_values=True)", ("text beside riders",)),
    Bug("pairs of a feature net one position late",
        "drafters.feature_drafter:StablePart.feed", "positions - 1",
        "positions", ("drafts of a feature net",)),
    Bug("the root's pair seen twice",
        "drafters.feature_drafter:StablePart.propose",
        "stable.truncate(jnp.maximum(stable.length - 1, 0))", "stable",
        ("drafts of a feature net",)),
    Bug("features kept of the first nodes, not of the path",
        "drafters.feature_drafter:StablePart.update", "path[:, :, None]",
        "0 * path[:, :, None] + jnp.arange(path.shape[1])[None, :, None]",
        ("stable pairs",)),
    Bug("rows of a trimmed head taken for tokens",
        "drafters.feature_drafter:GrownFeatureDrafter.grow_below",
        "self.model.token_ids(params)", "None", ("small vocabulary",)),
    Bug("law over a trimmed head taken for one over the first tokens",
        "drafters.level_drafter:over_all", ".at[..., token_ids]",
        ".at[..., :token_ids.shape[0]]", ("draws from a small vocabulary",)),
    Bug("coupled drafts of a trimmed head draw with noise of other tokens",
        "drafters.chain_draft_model:ChainDraftModel._token",
        "noise[:, token_ids]", "noise[:, :law.shape[-1]]",
        ("draws from a small vocabulary",)),
    Bug("offsets of a published head taken for token ids",
        "models.draft_vocabulary:read", "return ids.astype(np.int32)",
        "return offsets.astype(np.int32)", ("loaded vocabulary",)),
    Bug("token ids written in place of offsets",
        "models.draft_vocabulary:tensors",
        "ids.astype(np.int64) - np.arange(len(ids))", "ids.astype(np.int64)",
        ("written vocabulary",)),
    Bug("a level without a forward below the wrong parents",
        "drafters.ahead_drafter:AheadFeatureDrafter.look_ahead",
        "self.model.ahead(params, loop.handed)[1]",
        "self.model.ahead(params, loop.handed)[1][:, ::-1]",
        ("levels without a forward",)),
    Bug("a recurrence remembers the last pairs twice",
        "drafters.block_drafter:BlockDrafter.propose",
        "_remembered(state.memory, out, done)",
        "_remembered(state.memory, out, state.count)",
        ("laws of blocks",)),
    Bug("heads grounded one token early",
        "drafters.token_head_drafter:TokenHeadDrafter.absorb",
        "jnp.maximum(count - 1, 0)", "jnp.maximum(count - 2, 0)",
        ("grounds of heads",)),
    Bug("gates of a mixed batch do not close", "models.decoder:_where_open",
        "jnp.where(gate.reshape(-1, 1, 1), new, old)", "new",
        ("gates of rows",)),
    Bug("residual streams of drafts one place early",
        "drafters.early_exit_drafter:EarlyExitDrafter.propose",
        "out.taps[early_exit.STREAM], loop.index,",
        "out.taps[early_exit.STREAM], loop.index - 1,", ("early exits",)),
    Bug("training sees the target in its own block",
        "training.glide:seen_in_blocks",
        "key // block < query // block", "key // block <= query // block",
        ("sight of the target",)),
    Bug("superposed drafts forget their last token",
        "systems.retrieval.superposed:Superposition.__call__",
        "history[:, :, 1:]", "history[:, :, :-1]", ("superposed paths",)),
    Bug("a split state ends where the longer one does",
        "stores.suffix_automaton:SuffixAutomaton._split",
        "self._length[state] + 1, self._end[target])",
        "self._length[state] + 1, len(self.tokens) - 1)",
        ("suffix matches",)),
    Bug("an audit reads the target's laws one token late",
        "evaluation.acceptance:_score", 'p[pick("position") - 1]',
        'p[pick("position")]', ("audited drafts",)),
    Bug("an audit goes on below the first child, whichever was accepted",
        "evaluation.acceptance:_row_tries", "nodes[jnp.argmax(hit)]",
        "nodes[0]", ("audited drafts",)),
    Bug("stored features one token late", "training.recorded:said",
        'logits, fresh, {tap: record[f"{_TAP}{tap}"] for tap in taps})',
        'logits, fresh, {tap: jnp.roll(record[f"{_TAP}{tap}"], 1, 1)'
        " for tap in taps})", ("stored features",)),
    Bug("sums of narrow products in narrow numbers", "models.products:_dot",
        "jnp.float32 if _is_short(a) else a.dtype", "a.dtype",
        ("narrow products",)),
)
