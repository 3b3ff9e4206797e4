"""A race of drafts: which one wins, and how to set it up for the target.

A draft of token x draws a score in [0, 1] from a law that belongs to x; the
highest score wins. For iid drafts let the scores of q be uniform: then a draft
of score s beats the others with probability s^(n-1), and

  Pr(the winner is x) = q(x) E[n s^(n-1) | x].

So the win rates r(x) that n drafts can reach are those for which r is a
conditional mean of n s^(n-1), s uniform: by Strassen's theorem (1965) exactly
those below it in the convex order, `sum over S of q r >= q(S)^n` for every set
S of tokens. That is every winner's law a selection among the drafts can have
(Khisti et al., arXiv 2410.18234, Sec. 3), hence the optimal transport is a
martingale coupling in one dimension. The inverse transform coupling (Jourdain
and Margheriti, arXiv 1808.01390, Sec. 2) writes it down: sort by p/q, give each
token a slot of [0, 1] of length q in that order, then let slots that win too
often exchange mass with slots that win too rarely, first come first served.
Nothing iterates and nothing is approximated by a quadrature.

Tokens share at most `num_nodes` laws of the score: a token whose p/q lies
between two nodes takes the law of either, mixed such that its mean is kept.
The nodes come from sums over narrow cells of p/q, so the work is O(V) without a
sort; from there on it is that of `num_nodes` tokens.
"""

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

# Within 1e-4 of the optimum with V = 2k to 128k tokens and 2 to 8 drafts.
NUM_NODES = 64
_CELLS_PER_NODE = 16
_LANES = 16  # Partial sums of a law, see `Race.node_mass`.


@struct.dataclass
class Race:
  """The law of the score, given the token. Any values make a fair race.

  Slots are the stretches of [0, 1], lowest first, within which the score is
  uniform; S nodes, S slots.

  Attributes:
    node: `i32[V]`, in [0, S - 1).
    upper: `f[V]`, probability that the token takes the law of `node + 1`.
    slots: `f[S, S]`, row b is the law of the slot at node b.
  """

  node: jax.Array
  upper: jax.Array
  slots: jax.Array

  def at_tokens(self, table: jax.Array) -> jax.Array:
    """What `table` `f[..., S]` of nodes means for the tokens: `f[..., V]`."""
    above = jnp.minimum(self.node + 1, table.shape[-1] - 1)
    upper = jnp.expand_dims(self.upper, range(table.ndim - 1))
    return table[..., self.node] * (1 - upper) + table[..., above] * upper

  def node_mass(self, law: jax.Array) -> jax.Array:
    """`f[S]`, what the nodes get of a law of tokens `f[V]`."""
    lower, upper = _add_up(self.node, (law * (1 - self.upper),
                                       law * self.upper), self.slots.shape[0])
    # The last node has none above it; what is meant for that stays there.
    return lower + jnp.roll(upper, 1).at[0].set(0).at[-1].add(upper[-1])


def solve(p: jax.Array, q: jax.Array, is_draft: jax.Array,
          num_nodes: int = NUM_NODES) -> Race:
  """The race whose winner is accepted most often, for iid drafts.

  Optimal for V <= num_nodes; beyond, the nodes cost less than 1e-4.

  Args:
    p: `f[V]`, the target's law.
    q: `f[V]`, the draft law.
    is_draft: `bool[K]`; only the number of drafts matters.
    num_nodes: laws of the score that tokens share.
  """
  num_drafts = is_draft.sum().astype(p.dtype)
  # Nothing wins more often than it is drafted, at most n times q.
  rate = jnp.minimum(
      jnp.where(q > 0, p / jnp.where(q > 0, q, 1), num_drafts), num_drafts)
  nodes = _nodes(rate, q, num_drafts, num_nodes)
  node, upper = _between(nodes, rate)
  size = nodes.shape[0]
  race = Race(node, upper, jnp.eye(size, dtype=p.dtype))
  mass = race.node_mass(q)
  wins = win_chances(mass[None], is_draft).sum(0)
  return race.replace(slots=_exchange(mass, nodes, wins))


def winner_law(race: Race, q: jax.Array, is_draft: jax.Array) -> jax.Array:
  """The law of the winner, the drafts summed out.

  Args:
    race: any.
    q: `f[V]`, the law of every draft, or `f[K, V]`, one law each.
    is_draft: `bool[K]`, False for padding.

  Returns:
    `f[V]`, exact: it sums `win_chances` over all drafts.
  """
  # Not a batch of one: `solve` summed the same, which is then done once.
  masses = (race.node_mass(q)[None] if q.ndim == 1
            else jax.vmap(race.node_mass)(q))
  in_slots = jnp.matmul(masses, race.slots, precision="highest")
  chances = win_chances(in_slots, is_draft)
  if q.ndim == 1:  # All drafts alike: one row for their sum.
    chances = chances.sum(0, keepdims=True)
  of_nodes = jnp.matmul(chances, race.slots.T, precision="highest")
  return (jnp.atleast_2d(q) * race.at_tokens(of_nodes)).sum(0)


def draft_chances(race: Race, drafts: jax.Array, is_draft: jax.Array
                  ) -> jax.Array:
  """Given the drafts `i32[K]`: the probability `f[K]` that each one wins."""
  upper = race.upper[drafts][:, None]
  above = jnp.minimum(race.node[drafts] + 1, race.slots.shape[0] - 1)
  in_slots = (race.slots[race.node[drafts]] * (1 - upper)
              + race.slots[above] * upper)
  return (in_slots * win_chances(in_slots, is_draft)).sum(-1)


def win_chances(in_slots: jax.Array, is_draft: jax.Array) -> jax.Array:
  """The probability that a draft wins, given the slot of its score.

  Within a slot all scores are uniform, so the others stay below with a product
  of linear functions: Gauss-Legendre integrates it exactly. (Were it not exact,
  the race would still be fair, for all callers use the same sum.)

  Args:
    in_slots: `f[K, S]`, the law of the slot of each draft, or `f[1, S]`.
    is_draft: `bool[K]`, False for padding.

  Returns:
    `f[K, S]`, 0 for padding.
  """
  num_drafts = is_draft.shape[0]
  points, weights = np.polynomial.legendre.leggauss((num_drafts + 1) // 2)
  start = jnp.cumsum(in_slots, -1) - in_slots
  itself = jnp.eye(num_drafts, dtype=bool) | ~is_draft[None]
  chances = jnp.zeros((num_drafts, in_slots.shape[1]), in_slots.dtype)
  for point, weight in zip(points.tolist(), weights.tolist()):
    below = start + in_slots * ((point + 1) / 2)
    others = jnp.where(itself[:, :, None], 1, below[None]).prod(1)
    chances = chances + others * (weight / 2)
  return jnp.where(is_draft[:, None], chances, 0)


def _nodes(rate, q, num_drafts, num_nodes):
  """Ascending rates `f[S]` that tokens are placed between.

  Beyond `num_nodes` tokens they are first gathered in narrow cells of similar
  rates, which costs less than to sort them.
  """
  if rate.shape[0] <= num_nodes:
    nodes = jnp.sort(rate)
    # Ties but for rounding share a node: the race must not depend on it.
    is_new = jnp.diff(nodes, prepend=-1) > _rounding(nodes) * nodes
    return jax.lax.cummax(jnp.where(is_new, nodes, 0))
  num_cells = _CELLS_PER_NODE * num_nodes
  # Equal steps of the root: what is lost grows with the rate.
  cell = jnp.sqrt(rate / jnp.maximum(num_drafts, 1)) * num_cells
  cell = jnp.minimum(cell.astype(jnp.int32), num_cells - 1)
  mass, total = _sums(cell, (q, q * rate), num_cells)
  mean = _ratio(total, mass)
  mean = jax.lax.cummax(mean)  # An empty cell repeats the one before.
  nodes = mean[_spread(mean, mass, num_drafts, num_nodes)]
  return nodes.at[0].set(rate.min()).at[-1].set(rate.max())


def _spread(rate, mass, num_drafts, num_nodes):
  """Indices `i32[S]` of cells, close where there is mass or the rate changes.

  The loss is at most the mass between two nodes times the distance of their
  rates, and nothing if the nodes include both sides of the edge between the
  tokens that win too often and those that win too rarely.
  """
  surplus = jnp.cumsum(mass * rate) - jnp.cumsum(mass) ** num_drafts
  below = jnp.argmin(surplus)
  index = jnp.arange(rate.shape[0])
  above = jnp.argmax((index > below) & (mass > 0))
  # A step this long is never jumped over; longer ones would only repeat nodes.
  longest = 3 / (num_nodes - 1)
  step = mass + jnp.diff(rate, prepend=rate[:1]) / jnp.maximum(num_drafts, 1)
  step = jnp.where((index == below) | (index == above), longest,
                   jnp.minimum(step, longest))
  length = jnp.cumsum(step)
  marks = length[-1] * jnp.linspace(0, 1, num_nodes, dtype=rate.dtype)
  return jnp.minimum(jnp.searchsorted(length, marks), rate.shape[0] - 1)


def _between(nodes, rate):
  """The node at or below each rate, and how far it is to the next."""
  size = nodes.shape[0]
  node = jnp.searchsorted(nodes, rate, side="right") - 1
  node = jnp.clip(node, 0, max(size - 2, 0)).astype(jnp.int32)
  low, high = nodes[node], nodes[jnp.minimum(node + 1, size - 1)]
  upper = _ratio(rate - low, high - low)
  return node, jnp.clip(upper, 0, 1)


def _exchange(mass, wanted, wins):
  """Laws of the slot `f[S, S]` with mean win rate `wanted`, as far as possible.

  Args:
    mass: `f[S]`, of each node and of its own slot.
    wanted: `f[S]`, ascending, win rates of the nodes.
    wins: `f[S]`, ascending, win rates of the slots.
  """
  lacks = mass * (wanted - wins)
  sums = _edges(lacks)
  # Slots win too often below the edge and too rarely above it, on the whole:
  # there the sum is least, the optimum minus 1, and nothing may cross it.
  edge = jnp.argmax(sums <= sums.min() + _rounding(sums))
  takes, gives = _edges(jnp.maximum(lacks, 0)), _edges(jnp.maximum(-lacks, 0))
  takes, gives = takes - takes[edge], gives - gives[edge]
  # Node i takes from node j what their stretches share, counted from the edge.
  shared = (jnp.minimum(takes[1:, None], gives[None, 1:])
            - jnp.maximum(takes[:-1, None], gives[None, :-1]))
  gain = wins[None, :] - wins[:, None]
  shared = jnp.where(gain > 0, jnp.maximum(shared, 0), 0)
  # Rounding may ask for more than the slots hold, a fair share is never more.
  swapped = jnp.minimum(
      _ratio(shared, gain),
      jnp.minimum(
          mass[:, None] * _ratio(shared, shared.sum(1, keepdims=True)),
          mass[None, :] * _ratio(shared, shared.sum(0, keepdims=True))))
  moved = _ratio(swapped + swapped.T, mass[:, None])
  return moved + jnp.diag(jnp.maximum(1 - moved.sum(1), 0))


def _edges(values):
  """Sums of the first 0, 1, .. of `f[S]`: `f[S + 1]`."""
  return jnp.append(jnp.zeros((1,), values.dtype), jnp.cumsum(values))


def _rounding(values):
  """What a few operations may lose of values near 1."""
  return 8 * jnp.finfo(values.dtype).eps


def _ratio(part, whole):
  """`part / whole`, 0 where the whole is not positive."""
  is_positive = whole > 0
  return jnp.where(is_positive, part / jnp.where(is_positive, whole, 1), 0)


def _sums(index, columns, size):
  """Sums `f[size]` of each column over the values that share an index."""
  pairs = jnp.stack(columns, -1)  # Together: a scatter costs by the index.
  empty = jnp.zeros((size, len(columns)), pairs.dtype)
  return jnp.moveaxis(empty.at[index].add(pairs), -1, 0)


def _add_up(index, columns, size):
  """As `_sums`, for few places that many values share."""
  # One after the other, float32 would lose a digit for every ten thousand.
  lane = jnp.arange(index.shape[0], dtype=index.dtype) % _LANES
  sums = _sums(lane * size + index, columns, _LANES * size)
  return sums.reshape(len(columns), _LANES, size).sum(1)
