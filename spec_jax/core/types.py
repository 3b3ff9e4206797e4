"""The values that flow between the parts of a speculative decoder.

Axes, everywhere in the code base: B rows, N tree nodes, T fresh tokens, S cache
slots, V vocabulary, D draft depth, P = D + 1 path slots, L token buffer, K
key/value heads, C head size, E model width.
"""

import enum
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp


class Status(enum.IntEnum):
  """Why a row stopped (or that it has not)."""

  RUNNING = 0
  END_OF_TEXT = 1
  BUDGET = 2
  NAN_LOGITS = 3


class Role(enum.IntEnum):
  """What a random number is for; the last part of the RNG contract."""

  EMIT = 0  # the one draw that decides the emitted token
  DRAFT = 1  # everything a drafter draws
  CONTROL = 2  # how many tokens are drafted


# How the children of a node were drawn. "greedy": the K - 1 most likely tokens
# and one draw from the rest. "coupled": with the emitting draw's own noise, so
# only a rule whose law ignores the drafts may verify them.
DRAWS = ("iid", "without_replacement", "greedy", "top_k", "deterministic",
         "coupled")
# Those whose rules are shown the law that drew.
RANDOM_DRAWS = ("iid", "without_replacement", "greedy")


@struct.dataclass
class FreshKV:
  """Keys and values of tokens that are not (yet) committed.

  Attributes:
    k: per layer `[B, K, T, C]`.
    v: per layer `[B, K, T, C]`.
    positions: `i32[B, T]`, positions in the text.
  """

  k: tuple[jax.Array, ...]
  v: tuple[jax.Array, ...]
  positions: jax.Array

  @property
  def num_tokens(self) -> int:
    return self.positions.shape[1]

  def layers(self, which: slice) -> "FreshKV":
    """The same of some of the layers."""
    return FreshKV(self.k[which], self.v[which], self.positions)

  def below(self, deeper: "FreshKV") -> "FreshKV":
    """The same with further layers on top."""
    return FreshKV(self.k + deeper.k, self.v + deeper.v, self.positions)

  def then(self, new: "FreshKV") -> "FreshKV":
    """The same with further tokens behind."""
    join = lambda a, b: jnp.concatenate([a, b], axis=2)
    return FreshKV(
        tuple(map(join, self.k, new.k)), tuple(map(join, self.v, new.v)),
        jnp.concatenate([self.positions, new.positions], axis=1))


@struct.dataclass
class ModelOut:
  """What one forward pass returns.

  Attributes:
    logits: `f32[B, T, V]`, or None when not asked for.
    fresh: keys and values of the tokens passed in; nothing was written.
    taps: features `[B, T, E]` by layer index or "final".
  """

  logits: jax.Array | None
  fresh: FreshKV
  taps: dict[Any, jax.Array]

  def part(self, which: slice) -> "ModelOut":
    """The same for some of the T tokens."""
    cut = lambda arrays: tuple(a[:, :, which] for a in arrays)
    fresh = FreshKV(cut(self.fresh.k), cut(self.fresh.v),
                    self.fresh.positions[:, which])
    logits = None if self.logits is None else self.logits[:, which]
    return ModelOut(logits, fresh, jax.tree.map(
        lambda a: a[:, which], self.taps))


@struct.dataclass
class DraftTree:
  """Drafted continuations of the pending token, as a tree of static size.

  Node 0 is the root: the last committed token, whose keys and values are not
  yet in the cache. Siblings stand in the order in which they were drawn.

  Attributes:
    tokens: `i32[B, N]`.
    parents: `i32[B, N]`; -1 for the root, else smaller than the node's index.
    valid: `bool[B, N]`; False marks padding: never attended, never accepted.
    q: `f32[B, N, V]`, row n is the law (after all warping) that drew the
      children of node n; None where the children are not random.
    draw: one of `DRAWS`.
    depth: static bound on the depth of a node (axis D).
    max_children: static bound on the children of a node.
  """

  tokens: jax.Array
  parents: jax.Array
  valid: jax.Array
  q: jax.Array | None
  draw: str = struct.field(pytree_node=False)
  depth: int = struct.field(pytree_node=False)
  max_children: int = struct.field(pytree_node=False)

  @property
  def num_nodes(self) -> int:
    return self.tokens.shape[-1]


@struct.dataclass
class Begun:
  """What a drafter has computed of the target's forward over its own tree.

  Attributes:
    stream: `f[B, N, E]`, the residual stream after the first layers.
    fresh: keys and values of these layers.
  """

  stream: jax.Array
  fresh: FreshKV


@struct.dataclass
class Riders:
  """Tokens that share the target's forward but are no drafts.

  They are never verified and never committed; nodes of the tree do not see
  them. The committed prefix is visible to all.

  Attributes:
    tokens: `i32[B, R]`.
    positions: `i32[B, R]`, positions in the text.
    mask: `bool[B, R, N + R]`, True where a rider may look: at the nodes of the
      tree, then at the riders.
  """

  tokens: jax.Array
  positions: jax.Array
  mask: jax.Array


@struct.dataclass
class HostDraft:
  """A tree as a host store gives it, below the root; arrays of fixed shape.

  Attributes:
    tokens: `i32[B, M]`.
    parents: `i32[B, M]`, in the numbering of the whole tree: 0 is the root, the
      first node here is 1; smaller than the node's own number.
    valid: `bool[B, M]`.
    score: `f32[B]`, how much the store trusts the draft, in its own unit.
  """

  tokens: jax.Array
  parents: jax.Array
  valid: jax.Array
  score: jax.Array


@struct.dataclass
class Verdict:
  """Which nodes of a tree were accepted, and what was emitted after them.

  Attributes:
    path: `i32[B, P]` node indices from the root; slots at or beyond `count`
      repeat the last accepted node.
    count: `i32[B]`, nodes on the path, the root included; equally the number of
      tokens emitted this round. 0 = the row emitted nothing.
    next_token: `i32[B]`, the token after the last accepted node: a correction
      or a bonus. It becomes the next root.
    carry: what the rule hands to its next round, see
      `protocols.Verifier.init_state`; () for most rules.
  """

  path: jax.Array
  count: jax.Array
  next_token: jax.Array
  carry: Any = ()


@struct.dataclass
class Context:
  """The committed text, as a drafter may see it.

  Attributes:
    tokens: `i32[B, L]`.
    length: `i32[B]`, committed tokens, the pending one included.
    keys: `key[B]`, one per row; fold in a position and a role before use.
    target_params: parameters of the target.
    target_cache: the target's cache, read only.
    carry: what the rule handed on, () for most rules.
    is_running: `bool[B]`, whose drafts will be looked at; None for all.
  """

  tokens: jax.Array
  length: jax.Array
  keys: jax.Array
  target_params: Any
  target_cache: Any
  carry: Any = ()
  is_running: jax.Array | None = None

  @property
  def root(self) -> jax.Array:
    """The pending token `i32[B]`."""
    return jnp.take_along_axis(self.tokens, self.length[:, None] - 1, 1)[:, 0]

  @property
  def takes_part(self) -> jax.Array:
    """`bool[B]`; no draft forward need be made for the others."""
    if self.is_running is None:
      return jnp.ones(self.length.shape, bool)
    return self.is_running


@struct.dataclass
class Outcome:
  """What a drafter learns after a round.

  Attributes:
    verdict: after end of text and budget were applied.
    tree: the tree that was verified.
    out: the target's forward over the tree.
    riders: the same forward over the drafter's riders, or None.
    tokens: `i32[B, L]`, the committed text after the round.
    length: `i32[B]`, its length.
  """

  verdict: Verdict
  tree: DraftTree
  out: ModelOut
  tokens: jax.Array
  length: jax.Array
  riders: ModelOut | None = None


@struct.dataclass
class Params:
  """Two pytrees, never merged."""

  target: Any
  drafter: Any = None


@struct.dataclass
class Drafted:
  """What a controller may look at once a token of a chain is drawn.

  Attributes:
    index: `i32[]`, tokens drafted before it in this round.
    confidence: `f32[B]`, its probability under the draft at temperature 1.
    features: the draft model's taps by name, `[B, E]`, at the token *before*
      it, from the forward pass that gave its law.
  """

  index: jax.Array
  confidence: jax.Array
  features: dict[Any, jax.Array]


@struct.dataclass
class Checked:
  """What a controller learns after a round.

  Attributes:
    drafted: `i32[B]`, at least 1.
    accepted: `i32[B]`, of them, before the first that was not.
    is_full: `bool[B]`, whether no more could have been drafted.
    is_active: `bool[B]`, whether the row took part in the round.
  """

  drafted: jax.Array
  accepted: jax.Array
  is_full: jax.Array
  is_active: jax.Array


@struct.dataclass
class DecodeState:
  """Everything one step needs of the steps before it.

  Attributes:
    keys: `key[B]`, row keys; never advanced (positions are folded in).
    tokens: `i32[B, L]`, prompt and committed text; unused slots are 0.
    length: `i32[B]`, committed tokens.
    limit: `i32[B]`, the length at which the row's budget is spent.
    status: `i32[B]`, a `Status`.
    cache: the target's cache; holds `length - 1` tokens of each running row.
    drafter: the drafter's own state.
    verifier: the rule's own state, () for most rules.
  """

  keys: jax.Array
  tokens: jax.Array
  length: jax.Array
  limit: jax.Array
  status: jax.Array
  cache: Any
  drafter: Any
  verifier: Any = ()

  @property
  def is_running(self) -> jax.Array:
    return self.status == Status.RUNNING


@struct.dataclass
class StepInfo:
  """Statistics of one round; returned, never carried by the step.

  Attributes:
    active: `i32[B]`, 1 where the row took part in the round.
    drafted: `i32[B, D]`, valid nodes by depth 1..D.
    reached: `i32[B, D]`, 1 where a node of that depth could have been accepted
      (its parent was accepted and had a valid child).
    accepted: `i32[B, D]`, 1 where the path reached that depth.
    emitted: `i32[B]`, tokens emitted.
  """

  active: jax.Array
  drafted: jax.Array
  reached: jax.Array
  accepted: jax.Array
  emitted: jax.Array
