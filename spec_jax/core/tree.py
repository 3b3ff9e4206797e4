"""Algebra of draft trees: masks, depths, pruning, merging, well-formedness."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import types

# Many times what any method drafts. Masks grow with the square of it, laws by
# the vocabulary: a typing error would take hundreds of gigabytes.
MOST_NODES = 4096


def ancestor_mask(parents: jax.Array, valid: jax.Array) -> jax.Array:
  """`bool[B, N, N]`: entry (i, j) is True iff j is i or an ancestor of i.

  The parent relation is squared `ceil(log2 N)` times: after k squarings it
  spans paths of up to 2^k edges. Padding neither sees nor is seen.
  """
  num_nodes = parents.shape[-1]
  nodes = jnp.arange(num_nodes)[None, None]
  reach = (parents[:, :, None] == nodes) | jnp.eye(num_nodes, dtype=bool)[None]
  for _ in range(max(1, math.ceil(math.log2(max(num_nodes, 2))))):
    reach = jnp.einsum("bij,bjk->bik", reach.astype(jnp.float32),
                       reach.astype(jnp.float32)) > 0
  return reach & valid[:, :, None] & valid[:, None, :]


def depths(parents: jax.Array) -> jax.Array:
  """`i32[B, N]`, edges between a node and the root."""
  everything = jnp.ones(parents.shape, bool)
  return ancestor_mask(parents, everything).sum(-1).astype(jnp.int32) - 1


def positions(tree: types.DraftTree, length: jax.Array) -> jax.Array:
  """`i32[B, N]` positions in the text; the root stands at `length - 1`."""
  return length[:, None] - 1 + depths(tree.parents)


def chain(root: jax.Array, drafts: jax.Array, num_valid: jax.Array,
          draw: str, q: jax.Array | None = None) -> types.DraftTree:
  """A tree of width 1.

  Args:
    root: `i32[B]`, the pending token.
    drafts: `i32[B, D]`.
    num_valid: `i32[B]`, how many of the drafts count.
    draw: see `types.DRAWS`.
    q: `f32[B, D, V]`, row d is the law that drew draft d; None if not random.
  """
  chex.assert_rank([root, drafts, num_valid], [1, 2, 1])
  batch, depth = drafts.shape
  tokens = jnp.concatenate([root[:, None], drafts], axis=1)
  parents = jnp.broadcast_to(
      jnp.arange(-1, depth, dtype=jnp.int32), tokens.shape)
  valid = jnp.arange(depth + 1)[None] <= num_valid[:, None]
  if q is not None:  # A leaf has no children, its row is never read.
    q = jnp.pad(q, ((0, 0), (0, 1), (0, 0)))
  return types.DraftTree(tokens, parents, valid, q, draw, depth, 1)


def check_size(what: str, num_nodes: int) -> None:
  """Raises ValueError for a tree that no device has room for.

  Args:
    what: asks for the tree, such as "depth=9".
    num_nodes: of it, the root included.
  """
  if num_nodes > MOST_NODES:
    raise ValueError(
        f"{what}: a tree of {num_nodes} nodes, expected at most {MOST_NODES}.")


def _num_nodes(branching) -> int:
  """Nodes of a tree, the root included, without listing them."""
  total, width = 1, 1
  for entry in branching:
    width = width * entry if isinstance(entry, int) else sum(entry)
    total += width
  return total


def child_counts(branching) -> tuple[tuple[int, ...], ...]:
  """By level, how many children each node of the level has.

  Args:
    branching: by level, one number for all nodes or one for each.

  Raises:
    ValueError: if there is no level, a level has no child, it lists more or
      fewer numbers than it has nodes, or there are more than `MOST_NODES`.
  """
  check_size(f"branching={branching}", _num_nodes(branching))
  counts, width = [], 1
  for level, entry in enumerate(branching):
    per_node = (entry,) * width if isinstance(entry, int) else tuple(entry)
    if len(per_node) != width:
      raise ValueError(
          f"branching={branching}: level {level} lists {len(per_node)} numbers"
          f" of children, expected one for each of its {width} nodes.")
    counts.append(per_node)
    width = sum(per_node)
  if not counts or any(max(c) < 1 or min(c) < 0 for c in counts):
    raise ValueError(
        f"branching={branching}, expected at least one level and at least one"
        " child per level.")
  return tuple(counts)


def static_parents(branching) -> np.ndarray:
  """Parents of the tree in which nodes have that many children.

  Nodes are numbered level by level; siblings are adjacent.

  Args:
    branching: see `child_counts`.
  """
  parents, start = [-1], 0
  for counts in child_counts(branching):
    first = len(parents)
    for node, count in enumerate(counts, start):
      parents += [node] * count
    start = first
  return np.asarray(parents, np.int32)


def children(parents: jax.Array, valid: jax.Array, node: jax.Array,
             max_children: int) -> tuple[jax.Array, jax.Array]:
  """The valid children of one node of one tree, in draw order.

  Args:
    parents: `i32[N]`, one row of the batch.
    valid: `bool[N]`.
    node: scalar.
    max_children: static.

  Returns:
    `i32[max_children]` node indices and `bool[max_children]`.
  """
  num_nodes = parents.shape[0]
  nodes = jnp.arange(num_nodes)
  slots = jnp.where((parents == node) & valid, nodes, num_nodes)
  if max_children == 1:  # Chains: no need to sort.
    order = slots.min(keepdims=True)
  else:
    order = jnp.pad(jnp.sort(slots), (0, max(0, max_children - num_nodes)),
                    constant_values=num_nodes)[:max_children]
  exists = order < num_nodes
  return jnp.where(exists, order, 0), exists


def select(parents: jax.Array, valid: jax.Array, scores: jax.Array,
           budget: int) -> jax.Array:
  """The `budget` best nodes together with all that leads to them.

  A node scores at most what its parent scores (the minimum along the path is
  taken), and ties go to the lower index, so the chosen set is prefix-closed,
  and no prefix-closed set of that size has a larger sum if scores fall along
  paths by themselves.

  Args:
    parents: `i32[B, N]`.
    valid: `bool[B, N]`; invalid nodes come last.
    scores: `f[B, N]`; the root is always chosen.
    budget: at most N; static.

  Returns:
    `i32[B, budget]` node indices, ascending.
  """
  # Every path has the root, whose own score must not cap the others.
  closed = scores.at[:, 0].set(jnp.inf)
  ancestor = jnp.maximum(parents, 0)
  # Each turn doubles the stretch of path that the minimum has seen.
  for _ in range(max(1, math.ceil(math.log2(max(parents.shape[-1], 2))))):
    closed = jnp.minimum(closed, jnp.take_along_axis(closed, ancestor, 1))
    ancestor = jnp.take_along_axis(ancestor, ancestor, 1)
  closed = jnp.where(valid, closed, -jnp.inf)
  order = jnp.argsort(-closed, axis=-1, stable=True)
  return jnp.sort(order[:, :budget], axis=-1).astype(jnp.int32)


def take(tree: types.DraftTree, kept: jax.Array) -> types.DraftTree:
  """The tree of the nodes `i32[B, M]`, ascending and prefix-closed."""
  rows = jnp.arange(kept.shape[0])[:, None]
  rank = jnp.zeros(tree.parents.shape, jnp.int32).at[rows, kept].set(
      jnp.arange(kept.shape[1], dtype=jnp.int32)[None])
  pick = lambda a: jnp.take_along_axis(a, kept, 1)
  old_parents = pick(tree.parents)
  parents = jnp.take_along_axis(rank, jnp.maximum(old_parents, 0), 1)
  q = None if tree.q is None else jnp.take_along_axis(
      tree.q, kept[:, :, None], 1)
  return tree.replace(
      tokens=pick(tree.tokens), valid=pick(tree.valid), q=q,
      parents=jnp.where(old_parents < 0, -1, parents))


def prune(tree: types.DraftTree, scores: jax.Array, budget: int
          ) -> types.DraftTree:
  """Keeps the `budget` best nodes, the root included; see `select`.

  Raises:
    ValueError: if the budget is below 1 or above the number of nodes.
  """
  if not 1 <= budget <= tree.num_nodes:
    raise ValueError(
        f"budget={budget} nodes, the tree has {tree.num_nodes}; expected"
        " between 1 and that.")
  return take(tree, select(tree.parents, tree.valid, scores, budget))


def merge(first: types.DraftTree, second: types.DraftTree) -> types.DraftTree:
  """The union of two trees over one root, equal token prefixes merged.

  Only for proposals without a law: merging would change the multiplicity of
  sampled siblings, and with it the law of every rejection rule.

  Raises:
    ValueError: if either tree carries a law.
  """
  for tree in (first, second):
    if tree.q is not None:
      raise ValueError(
          f"cannot merge a tree drawn {tree.draw!r}: its children carry a law"
          " and merging duplicates would change it.")
  offset = first.num_nodes
  join = lambda a, b: jnp.concatenate([a, b], axis=1)
  shifted = jnp.where(second.parents < 0, -1, second.parents + offset)
  tokens = join(first.tokens, second.tokens)
  parents = join(first.parents, shifted)
  valid = join(first.valid, second.valid)
  twin = jax.vmap(twins)(tokens, parents, valid)
  nodes = jnp.arange(tokens.shape[1])[None]
  is_first = twin == nodes
  parents = jnp.where(
      parents < 0, -1,
      jnp.take_along_axis(twin, jnp.maximum(parents, 0), 1))
  # Twins pool their children, so the bounds of the two trees do not add up
  # to a bound of the union; the number of its nodes is one.
  return types.DraftTree(
      tokens, jnp.where(is_first | (nodes == 0), parents, 0),
      valid & is_first, None, "deterministic", max(first.depth, second.depth),
      tokens.shape[1] - 1)


def twins(tokens, parents, valid):
  """For each node `[N]` the lowest one with the same tokens from the root."""
  num_nodes = tokens.shape[0]
  nodes = jnp.arange(num_nodes)

  def visit(node, twin):
    parent = jnp.where(
        parents[node] < 0, -1, twin[jnp.maximum(parents[node], 0)])
    twin_parents = jnp.where(parents < 0, -1, twin[jnp.maximum(parents, 0)])
    same = ((twin_parents == parent) & (tokens == tokens[node]) & valid
            & (nodes <= node))
    lowest = jnp.where(same, nodes, num_nodes).min()
    return twin.at[node].set(jnp.where(valid[node], lowest, node))

  return jax.lax.fori_loop(0, num_nodes, visit, nodes.astype(jnp.int32))


def check(tree: types.DraftTree, budget: int | None = None) -> None:
  """Raises if a concrete tree is malformed; for tests and debugging.

  Raises:
    ValueError: naming the row, the node and the rule that is broken.
  """
  if tree.draw not in types.DRAWS:
    raise ValueError(f"draw={tree.draw!r}, expected one of {types.DRAWS}.")
  if budget is not None and tree.num_nodes > budget:
    raise ValueError(
        f"the tree has {tree.num_nodes} nodes, over its budget of {budget}.")
  parents, valid = np.asarray(tree.parents), np.asarray(tree.valid)
  depth = np.asarray(jax.jit(depths)(tree.parents))
  for row in range(parents.shape[0]):
    _check_row(row, parents[row], valid[row], depth[row], tree)


def _check_row(row, parents, valid, depth, tree):
  if parents[0] != -1 or not valid[0]:
    raise ValueError(f"row {row}: node 0 must be a valid root with parent -1,"
                     f" got parent {parents[0]}, valid {valid[0]}.")
  for node in range(1, len(parents)):
    if not 0 <= parents[node] < node:
      raise ValueError(f"row {row}, node {node}: parent {parents[node]} does"
                       " not precede it.")
    if valid[node] and not valid[parents[node]]:
      raise ValueError(f"row {row}, node {node} is valid, its parent"
                       f" {parents[node]} is not.")
    if valid[node] and depth[node] > tree.depth:
      raise ValueError(f"row {row}, node {node}: depth {depth[node]} exceeds"
                       f" the declared {tree.depth}.")
  counts = np.bincount(parents[1:][valid[1:]], minlength=1)
  if counts.size and counts.max() > tree.max_children:
    raise ValueError(f"row {row}: a node has {counts.max()} children, declared"
                     f" max_children={tree.max_children}.")
