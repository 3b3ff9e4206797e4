"""A drawn tree shows every valid node and marks what was accepted."""

import jax.numpy as jnp
import matplotlib

matplotlib.use("Agg")

from spec_jax.core import types
from spec_jax.evaluation import draw


def test_labels_and_colours():
  tree = types.DraftTree(
      tokens=jnp.asarray([[7, 8, 9, 5]]),
      parents=jnp.asarray([[-1, 0, 0, 1]]),
      valid=jnp.asarray([[True, True, True, False]]), q=None,
      draw="deterministic", depth=2, max_children=2)
  verdict = types.Verdict(jnp.asarray([[0, 2, 2]]), jnp.asarray([2]),
                          jnp.asarray([4]))
  ax = draw.draw_tree(tree, verdict, None)
  shown = {text.get_text(): text.get_bbox_patch().get_facecolor()
           for text in ax.texts}
  assert set(shown) == {"7", "8", "9", "4"}
  assert shown["7"] == shown["9"]
  assert len({shown["9"], shown["8"], shown["4"]}) == 3
