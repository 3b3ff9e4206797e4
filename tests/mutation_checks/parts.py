"""Trained parts, layers left out, memories: what each reads and says."""

import pathlib
import tempfile

import jax

from tests.drafters import block_drafter_test
from tests.drafters import feature_chain_test
from tests.drafters import feature_drafter_test
from tests.drafters import token_head_drafter_test
from tests.evaluation import acceptance_test
from tests.models import decoder_test
from tests.models import draft_vocabulary_test
from tests.models import products_test
from tests.stores import suffix_automaton_test
from tests.systems.features import glide_test
from tests.systems.features import jakiro_test
from tests.systems.retrieval import superposed_test
from tests.systems.self_speculative import early_exit_test
from tests.training import recorded_test


def stable_pairs():
  """What a feature net keeps is what the text alone would give."""
  feature_drafter_test.test_stable_part_of_a_static_tree()


def feature_drafts():
  """A feature net drafts what it would, had it read everything again."""
  check = (feature_drafter_test
           .test_drafts_are_those_of_a_net_that_reads_everything_again)
  check("one_tap")


def small_vocabulary():
  """Rows of a trimmed output head stand for the tokens they are listed as."""
  feature_drafter_test.test_trees_of_a_small_vocabulary_are_those_of_its_laws()


def draws_from_a_small_vocabulary():
  """So do its laws, and the noise that tokens are drawn with."""
  feature_chain_test.test_draws_are_those_of_their_laws_and_keys("coupled")
  feature_chain_test.test_laws_are_those_of_a_net_that_reads_everything_again(
      "drawn")


def loaded_vocabulary():
  """Rows of a published head stand for the tokens that it marks."""
  draft_vocabulary_test.test_rows_stand_for_the_tokens_that_are_marked()


def written_vocabulary():
  """What is written for others to read is what they published."""
  draft_vocabulary_test.test_what_is_written_is_what_was_read()


def levels_without_a_forward():
  """What was said of tokens further ahead stays below its own nodes."""
  jakiro_test.test_last_level_hangs_below_the_nodes_it_was_guessed_from()


def laws_of_blocks():
  """A block is guessed from the pairs before it, each of them read once."""
  block_drafter_test.test_laws_of_a_static_tree(2, ((2,), (1, 2), (1, 0, 1)))


def grounds_of_heads():
  """Heads read the feature of the token before the pending one."""
  check = (token_head_drafter_test
           .test_heads_are_grounded_on_the_token_before_the_pending_one)
  check("medusa_1")


def gates_of_rows():
  """What one row leaves out, another may need."""
  decoder_test.test_gates_of_each_row_equal_those_of_a_batch_of_one()


def superposed_paths():
  superposed_test.test_scores_of_paths_are_those_of_one_pass_by_hand()


def suffix_matches():
  """The automaton finds what a scan finds."""
  suffix_automaton_test.test_matches_are_those_of_a_scan()


def early_exits():
  """The target goes on from where the drafter left each draft."""
  early_exit_test.test_text_is_the_reference_and_drafts_are_the_early_exit(
      "kangaroo")


def sight_of_the_target():
  """In training a token sees no more of the target than a draft does."""
  glide_test.test_training_query_is_a_drafting_query(7)


def audited_drafts():
  """An audit follows the path that was taken, and knows the laws along it."""
  acceptance_test.test_equal_models_reach_one()
  (acceptance_test
   .test_measured_is_near_the_optimum_and_equals_the_counter)(
       "mcsd", {"branching": (2, 2)})


def stored_features():
  """A loss learns the same from a record as from the target."""
  with (tempfile.TemporaryDirectory() as folder,
        jax.numpy_dtype_promotion("standard")):  # As in all trainings.
    recorded_test.test_a_loss_does_not_tell_a_record_from_the_target(
        "features", pathlib.Path(folder))


def narrow_products():
  """Narrow factors, wide sums."""
  products_test.test_factors_are_of_the_narrower_type_and_sums_of_float32()
