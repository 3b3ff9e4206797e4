"""Pictures of draft trees: what was proposed, what was accepted."""

from matplotlib import pyplot as plt
import numpy as np

from spec_jax.core import tree as tree_lib
from spec_jax.core import types

_ACCEPTED, _REJECTED, _EMITTED = "#2a7f4f", "#b9bec5", "#c8641e"


def draw_tree(tree: types.DraftTree, verdict: types.Verdict, tokenizer,
              row: int = 0, ax=None):
  """Draws one row's tree from left to right, the accepted path in green.

  Args:
    tree: of a round.
    verdict: on it; the token it emits last is drawn in orange.
    tokenizer: gives the labels; None labels nodes by token id.
    row: of the batch.
    ax: matplotlib axes; made if None.

  Returns:
    The axes.
  """
  parents = np.asarray(tree.parents)[row]
  valid = np.asarray(tree.valid)[row]
  depth = np.asarray(tree_lib.depths(tree.parents))[row]
  count = int(np.asarray(verdict.count)[row])
  path = set(np.asarray(verdict.path)[row][:count].tolist())
  labels = [_label(token, tokenizer) for token in np.asarray(tree.tokens)[row]]
  height = _heights(parents, valid)
  if ax is None:
    rows = max(2.0, 0.42 * len(set(height.values())))
    _, ax = plt.subplots(figsize=(2.0 * (depth.max() + 2), rows))
  for node in np.flatnonzero(valid):
    is_on = node in path
    if parents[node] >= 0:
      _edge(ax, (depth[parents[node]], height[parents[node]]),
            (depth[node], height[node]), _ACCEPTED if is_on else _REJECTED)
    _box(ax, (depth[node], height[node]), labels[node],
         _ACCEPTED if is_on else _REJECTED)
  if count:
    last = int(np.asarray(verdict.path)[row][count - 1])
    # Half a row up, so that it never covers a rejected child.
    spot = (depth[last] + 0.55, height[last] + 0.5)
    _edge(ax, (depth[last], height[last]), spot, _EMITTED)
    _box(ax, spot, _label(int(np.asarray(verdict.next_token)[row]), tokenizer),
         _EMITTED)
  ax.set_xlim(-0.4, depth.max() + 1.0)
  ax.margins(y=0.15)
  ax.axis("off")
  return ax


def _heights(parents, valid):
  """Leaves on lines of their own, inner nodes in the middle of theirs."""
  children = {node: [] for node in np.flatnonzero(valid)}
  for node in children:
    if parents[node] >= 0:
      children[parents[node]].append(node)
  heights, next_line = {}, 0
  for node in _post_order(0, children):
    if children[node]:
      heights[node] = float(np.mean([heights[c] for c in children[node]]))
    else:
      heights[node] = float(-next_line)
      next_line += 1
  return heights


def _post_order(node, children):
  for child in children[node]:
    yield from _post_order(child, children)
  yield node


def _label(token, tokenizer):
  if tokenizer is None:
    return str(int(token))
  text = tokenizer.decode([int(token)], skip_special_tokens=False)
  # A dollar sign would start mathematics in matplotlib.
  return repr(text)[1:-1].replace("$", r"\$").replace(" ", "␣") or "∅"


def _edge(ax, start, stop, color):
  ax.plot([start[0], stop[0]], [start[1], stop[1]], color=color,
          linewidth=2 if color != _REJECTED else 1, zorder=1)


def _box(ax, spot, text, color):
  ax.text(*spot, text, ha="center", va="center", family="monospace",
          fontsize=9, zorder=2,
          color="white" if color != _REJECTED else "black",
          bbox={"boxstyle": "round,pad=0.3", "facecolor": color,
                "edgecolor": "none"})
