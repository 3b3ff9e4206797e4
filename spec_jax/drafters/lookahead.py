"""Jacobi iterations on a window ahead, harvested into a phrase pool.

Fu et al. 2024 (Lookahead Decoding), Sec. 3 and repository.
"""

import dataclasses
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from spec_jax.core import protocols
from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types
from spec_jax.drafters import phrase_pool
from spec_jax.trees import phrases as phrases_lib


@struct.dataclass
class Window:
  """N - 1 rows of guesses, W columns each.

  Attributes:
    tokens: `i32[B, N - 1, W]`; row l, column i guesses position `length - 1 +
      l + i`, so that the pending token stands at (0, 0), whatever is stored.
    filled: `i32[B]`, rows below the first that hold guesses.
  """

  tokens: jax.Array
  filled: jax.Array


@dataclasses.dataclass(frozen=True)
class Jacobi:
  """The window: what rides along, what is harvested, how it moves on.

  Attributes:
    level: N, the size of an n-gram, the key included.
    width: W, columns.
  """

  level: int
  width: int

  def __post_init__(self):
    if self.level < 2:
      raise ValueError(f"level={self.level}, expected >= 2: an n-gram is a key"
                       " and at least one token.")
    if self.width < 1:
      raise ValueError(f"width={self.width}, expected >= 1.")

  @property
  def num_rows(self) -> int:
    return self.level - 1

  @property
  def num_riders(self) -> int:
    return self.num_rows * self.width - 1

  def init(self, batch: int) -> Window:
    shape = batch, self.num_rows, self.width
    return Window(jnp.zeros(shape, jnp.int32),
                  jnp.full((batch,), -1, jnp.int32))

  def begin(self, window: Window, ctx: types.Context) -> Window:
    """Draws the first row from the text itself, before the first round."""
    slots = _scattered(self.width)[None] % ctx.length[:, None]
    drawn = jnp.take_along_axis(ctx.tokens, slots, axis=1)
    is_new = window.filled < 0
    first = jnp.where(is_new[:, None], drawn, window.tokens[:, 0])
    return Window(window.tokens.at[:, 0].set(first),
                  jnp.maximum(window.filled, 0))

  def riders(self, window: Window, length: jax.Array, num_nodes: int
             ) -> types.Riders:
    """All cells but the first, which is the root of the tree itself.

    Args:
      window: before the round.
      length: `i32[B]`.
      num_nodes: of the tree.
    """
    sees, offset = self._pattern()
    batch = length.shape[0]
    flat = window.tokens.reshape(batch, -1)[:, 1:]
    is_filled = (np.arange(self.num_rows).repeat(self.width)[None]
                 <= window.filled[:, None])  # [B, cells]
    mask = jnp.asarray(sees)[None] & is_filled[:, None, :]
    mask |= jnp.eye(len(sees), dtype=bool)[None]
    # Cell 0 is node 0 of the tree; no other node is seen.
    to_tree = jnp.pad(mask[:, 1:, :1], ((0, 0), (0, 0), (0, num_nodes - 1)))
    return types.Riders(
        flat, length[:, None] - 1 + jnp.asarray(offset[1:])[None],
        jnp.concatenate([to_tree, mask[:, 1:, 1:]], axis=2))

  def _pattern(self) -> tuple[np.ndarray, np.ndarray]:
    """Which cell sees which, and its distance from the pending token."""
    row, column = np.divmod(np.arange(self.num_rows * self.width), self.width)
    in_first = (row[None] == 0) & (column[None] <= column[:, None])
    above = (column[None] == column[:, None]) & (row[None] <= row[:, None])
    return in_first | above, (row + column).astype(np.int32)

  def advance(self, window: Window, root: jax.Array, outcome: types.Outcome
              ) -> tuple[Window, jax.Array, jax.Array, jax.Array]:
    """One Jacobi iteration.

    Args:
      window: before the round.
      root: `i32[B]`, the pending token before the round.
      outcome: of the round.

    Returns:
      The window, one column further, and what was harvested: keys `i32[B, W]`,
      phrases `i32[B, W, N - 1]`, and `bool[B]`, whether it was.
    """
    batch, rows = root.shape[0], jnp.arange(root.shape[0])
    logits = jnp.concatenate(
        [outcome.out.logits[:, :1], outcome.riders.logits], axis=1)
    guesses = sampling_lib.most_likely(logits).reshape(
        batch, self.num_rows, self.width)
    new = guesses[rows, window.filled]
    cells = window.tokens.at[:, 0, 0].set(root)
    is_full = window.filled == self.num_rows - 1
    is_real = outcome.verdict.count > 0
    columns = jnp.concatenate([cells[:, 1:], new[:, None]], axis=1)
    # While rows are missing the columns stay where they are.
    below = jnp.minimum(window.filled + 1, self.num_rows - 1)
    grown = cells.at[rows, below].set(new)
    tokens = jnp.where(is_full[:, None, None], columns, grown)
    tokens = jnp.where(is_real[:, None, None], tokens, window.tokens)
    filled = jnp.where(is_real, below, window.filled)
    return (Window(tokens, filled), cells[:, 0], columns.swapaxes(1, 2),
            is_full & is_real)


def _scattered(count: int) -> np.ndarray:
  """Numbers without a pattern, the same in every process."""
  return np.random.default_rng(0).integers(0, 2 ** 30, count).astype(np.int32)


@struct.dataclass
class State:
  """Window and pool; `root` is the pending token of the round."""

  window: Window
  pool: phrase_pool.PhrasePool
  root: jax.Array


@dataclasses.dataclass(frozen=True)
class Lookahead:
  """Verifies pool phrases that follow the pending token.

  Attributes:
    vocab_size: of the target.
    level: N.
    width: W.
    guesses: G, phrases per token; 0 only watches the window fill.
    from_text: whether the n-grams of the text itself, the prompt's and those
      that were emitted, go into the pool too.
  """

  vocab_size: int
  level: int = 5
  width: int = 7
  guesses: int = 7
  from_text: bool = False

  needs: ClassVar[protocols.Needs] = protocols.Needs(riders=True)

  def __post_init__(self):
    if self.guesses < 0:
      raise ValueError(f"guesses={self.guesses}, expected >= 0.")
    Jacobi(self.level, self.width)

  @property
  def jacobi(self) -> Jacobi:
    return Jacobi(self.level, self.width)

  @property
  def depth(self) -> int:
    return self.level - 1 if self.guesses else 0

  @property
  def max_children(self) -> int:
    return max(1, self.guesses)

  def init(self, params, batch, capacity):
    pool = phrase_pool.empty(
        batch, self.vocab_size, max(1, self.guesses), self.level - 1)
    return State(self.jacobi.init(batch), pool,
                 jnp.zeros((batch,), jnp.int32))

  def prefill(self, params, state, tokens, count):
    return state

  def propose(self, params, state, ctx, sampling):
    state = self.begin(state, ctx)
    if not self.guesses:
      nothing = jnp.zeros((ctx.root.shape[0], 0), jnp.int32)
      return tree_lib.chain(ctx.root, nothing, jnp.zeros_like(ctx.root),
                            "deterministic"), state
    found, exists = state.pool.lookup(ctx.root)
    length = jnp.where(exists, self.level - 1, 0)
    return phrases_lib.tree(ctx.root, found, length), state

  def begin(self, state: State, ctx: types.Context) -> State:
    """Before the first round the window and, if asked for, the pool start."""
    pool, is_new = state.pool, state.window.filled < 0
    if self.from_text:
      pool = jax.lax.cond(
          is_new.any(),
          lambda pool: self._read(
              pool, ctx.tokens, jnp.zeros_like(ctx.length),
              jnp.where(is_new, ctx.length, 0)),
          lambda pool: pool, pool)
    return State(self.jacobi.begin(state.window, ctx), pool, ctx.root)

  def _read(self, pool, tokens, start, stop):
    """Inserts the n-grams that end at the positions from start to stop."""
    reach = jnp.arange(self.level)[None] - (self.level - 1)

    def body(i, pool):
      end = start + i
      found = jnp.take_along_axis(
          tokens, jnp.maximum(end[:, None] + reach, 0), axis=1)
      is_real = (end < stop) & (end >= self.level - 1)
      return pool.insert(found[:, 0], found[:, 1:], is_real)

    return jax.lax.fori_loop(0, (stop - start).max(), body, pool)

  def riders(self, params, state, ctx, tree):
    return self.jacobi.riders(state.window, ctx.length, tree.num_nodes)

  def update(self, params, state, outcome):
    window, keys, found, is_real = self.jacobi.advance(
        state.window, state.root, outcome)
    is_real = jnp.repeat(is_real[:, None], self.width, axis=1)
    pool = state.pool.insert_all(keys, found, is_real)
    if self.from_text:
      pool = self._read(pool, outcome.tokens,
                        outcome.length - outcome.verdict.count, outcome.length)
    return State(window, pool, state.root)
