"""A system: parts that fit together. One pure step is all of decoding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from spec_jax.core import sampling as sampling_lib
from spec_jax.core import tree as tree_lib
from spec_jax.core import types


class IncompatibleParts(ValueError):
  """Two parts that cannot work together; the message names both sides."""


@dataclasses.dataclass(frozen=True)
class System:
  """A published method as a composition. Static under jit; hashed by value.

  Attributes:
    name: as registered.
    target: a `protocols.TargetModel`.
    drafter: a `protocols.Drafter`.
    verifier: a `protocols.Verifier`.
    make_cache: `(model, batch, capacity) -> cache`.
    walk: `(verifier, sampling, tree, logits, ctx) -> Verdict`, how the rule
      is carried through a tree.
    sampling: logits to law, for target and draft alike; while a round is
      traced, perhaps a `sampling.Deferred`.
    end_of_text: token id that ends a row, or None.
    tokenizer: for texts at the border; plays no part in a compilation.
  """

  name: str
  target: Any
  drafter: Any
  verifier: Any
  make_cache: Any
  walk: Any
  sampling: sampling_lib.Sampling = sampling_lib.Sampling()
  end_of_text: int | None = None
  tokenizer: Any = dataclasses.field(default=None, compare=False, repr=False)

  def __post_init__(self):
    check_compatible(self)

  def with_sampling(self, sampling: sampling_lib.Sampling) -> "System":
    return dataclasses.replace(self, sampling=sampling)


def check_compatible(system: System) -> None:
  """Raises `IncompatibleParts` if the parts cannot work together."""
  needs, rule = system.drafter.needs, system.verifier
  foreign = [draw for draw in needs.draws if draw not in rule.draws]
  if foreign:
    raise IncompatibleParts(
        f"drafter {system.drafter!r} draws children {foreign[0]!r}, rule"
        f" {rule!r} is valid for {rule.draws} only.")
  ignores_drafts = getattr(rule, "ignores_drafts", False)
  if (needs.memory or needs.mates) and not ignores_drafts:
    raise IncompatibleParts(
        f"drafter {system.drafter!r} remembers other rows or requests, the law"
        f" of rule {rule!r} depends on the drafts: a row's text would depend on"
        " what was decoded beside or before it.")
  if needs.begun_layers and needs.riders:
    raise IncompatibleParts(
        f"drafter {system.drafter!r} begins the target's forward over its tree"
        " itself, where no riders ride along.")
  depth = getattr(system.drafter, "depth", 0)
  if depth >= tree_lib.MOST_NODES:
    raise IncompatibleParts(
        f"system {system.name!r} drafts depth={depth} tokens in a row, a tree"
        f" of at least {depth + 1} nodes, expected at most"
        f" {tree_lib.MOST_NODES}.")
  drafts = getattr(system.drafter, "max_children", 1)
  if rule.max_drafts is not None and drafts > rule.max_drafts:
    raise IncompatibleParts(
        f"drafter {system.drafter!r} gives up to {drafts} drafts per node,"
        f" rule {rule!r} takes at most {rule.max_drafts}.")
  model = getattr(system.drafter, "model", None)
  if model is not None and model.vocab_size != system.target.vocab_size:
    raise IncompatibleParts(
        f"the draft model has a vocabulary of {model.vocab_size} tokens, the"
        f" target one of {system.target.vocab_size}; the first id known to"
        " only one of them is"
        f" {min(model.vocab_size, system.target.vocab_size)}.")


def can_defer(system: System) -> bool:
  """Whether one trace may serve temperature 0 and others alike.

  At temperature 0 several random children of a node would all be the most
  likely token: their drafter must know of it while it is traced.
  """
  return system.drafter.max_children == 1 or all(
      draw in ("top_k", "deterministic") for draw in system.drafter.needs.draws)


def draft_params(drafter: Any, params: types.Params) -> Any:
  """Those of a drafter's model, among all that the drafter has."""
  pick = getattr(drafter, "model_params", lambda own: own)
  return pick(params.drafter)


def context(params: types.Params, state: types.DecodeState) -> types.Context:
  return types.Context(state.tokens, state.length, state.keys, params.target,
                       state.cache, state.verifier, state.is_running)


def propose(system: System, params: types.Params, state: types.DecodeState,
            hosted: types.HostDraft | None = None
            ) -> tuple[types.DraftTree, Any]:
  """The drafter's half of a round; `hosted` is what its host half drafted."""
  more = (hosted,) if system.drafter.needs.host_store else ()
  return system.drafter.propose(
      params.drafter, state.drafter, context(params, state), system.sampling,
      *more)


def verify(system: System, params: types.Params, state: types.DecodeState,
           tree: types.DraftTree, drafter: Any
           ) -> tuple[types.DecodeState, types.StepInfo]:
  """The target's half of a round, with its statistics."""
  new_state, outcome = judge(system, params, state, tree, drafter)
  return new_state, info(state, tree, outcome.verdict)


def judge(system: System, params: types.Params, state: types.DecodeState,
          tree: types.DraftTree, drafter: Any
          ) -> tuple[types.DecodeState, types.Outcome]:
  """Forward, verify, stop, commit, update; returns what was decided."""
  out, riders = forward(system, params, state, tree, drafter)
  ctx = context(params, state)
  verdict = system.sampling.decide(
      lambda sampling, logits: system.walk(
          system.verifier, sampling, tree, logits, ctx), out.logits)
  verdict, status, emitted = stop(system, state, tree, out, verdict)
  tokens, length = append(state, emitted, verdict.count)
  outcome = types.Outcome(verdict, tree, out, tokens, length, riders)
  new_state = state.replace(
      tokens=tokens, length=length, status=status,
      cache=state.cache.commit(out.fresh, verdict.path, verdict.count),
      drafter=system.drafter.update(params.drafter, drafter, outcome),
      verifier=verdict.carry)
  return new_state, outcome


def forward(system: System, params: types.Params, state: types.DecodeState,
            tree: types.DraftTree, drafter: Any
            ) -> tuple[types.ModelOut, types.ModelOut | None]:
  """The target over the tree and, in the same pass, the drafter's riders."""
  tokens = tree.tokens
  positions = tree_lib.positions(tree, state.length)
  mask = tree_lib.ancestor_mask(tree.parents, tree.valid)
  if system.drafter.needs.riders:
    riders = system.drafter.riders(
        params.drafter, drafter, context(params, state), tree)
    num_riders = riders.tokens.shape[1]
    tokens = jnp.concatenate([tokens, riders.tokens], axis=1)
    positions = jnp.concatenate([positions, riders.positions], axis=1)
    mask = jnp.concatenate(
        [jnp.pad(mask, ((0, 0), (0, 0), (0, num_riders))), riders.mask], axis=1)
  run = functools.partial(
      system.target.forward, params.target, tokens, positions, mask,
      state.cache, taps=system.drafter.needs.taps)
  if system.drafter.needs.begun_layers:
    return _go_on(system, run, system.drafter.begun(drafter)), None
  out = run()
  if not system.drafter.needs.riders:
    return out, None
  return (out.part(slice(tree.num_nodes)),
          out.part(slice(tree.num_nodes, None)))


def _go_on(system: System, run, begun: types.Begun) -> types.ModelOut:
  """The target's forward from where the drafter left it."""
  out = run(embeds=begun.stream, layers=(
      system.drafter.needs.begun_layers, system.target.config.num_layers))
  return out.replace(fresh=begun.fresh.below(out.fresh))


def step(system: System, params: types.Params, state: types.DecodeState,
         hosted: types.HostDraft | None = None
         ) -> tuple[types.DecodeState, types.StepInfo]:
  """One round of speculative decoding. Pure; rows that stopped stay as is."""
  tree, drafter = propose(system, params, state, hosted)
  return verify(system, params, state, tree, drafter)


def stop(system: System, state: types.DecodeState, tree: types.DraftTree,
         out: types.ModelOut, verdict: types.Verdict
         ) -> tuple[types.Verdict, jax.Array, jax.Array]:
  """Applies end of text, budget and failure to a verdict; the one place.

  Returns:
    The verdict cut to what may be emitted, `i32[B]` status and `i32[B, P]`
    emitted tokens (the first `count` of a row are real).
  """
  slots = jnp.arange(verdict.path.shape[1])[None]
  on_path = jnp.take_along_axis(tree.tokens, verdict.path, axis=1)
  # Emitted are the accepted drafts (the path without the root), then the rest.
  shifted = jnp.pad(on_path[:, 1:], ((0, 0), (0, 1)))
  emitted = jnp.where(slots == verdict.count[:, None] - 1,
                      verdict.next_token[:, None], shifted)
  count = jnp.minimum(verdict.count, state.limit - state.length)
  ended = jnp.zeros(state.status.shape, bool)
  if system.end_of_text is not None:
    is_end = (emitted == system.end_of_text) & (slots < count[:, None])
    ended = is_end.any(-1)
    count = jnp.where(ended, jnp.argmax(is_end, -1) + 1, count)
  # A row's logits are read along its path only; padding may hold anything.
  is_bad = jnp.isnan(out.logits).any(-1) & tree.valid
  failed = jnp.take_along_axis(is_bad, verdict.path, axis=1).any(-1)
  count = jnp.where(state.is_running & ~failed, count, 0)
  spent = state.length + count >= state.limit
  status = jnp.select(
      [~state.is_running, failed, ended, spent],
      [state.status, jnp.full_like(state.status, types.Status.NAN_LOGITS),
       jnp.full_like(state.status, types.Status.END_OF_TEXT),
       jnp.full_like(state.status, types.Status.BUDGET)], state.status)
  last = jnp.take_along_axis(emitted, jnp.maximum(count - 1, 0)[:, None], 1)
  last_node = jnp.take_along_axis(
      verdict.path, jnp.maximum(count - 1, 0)[:, None], 1)
  path = jnp.where(slots < count[:, None], verdict.path, last_node)
  cut = verdict.replace(path=path, count=count.astype(jnp.int32),
                        next_token=last[:, 0])
  return cut, status, emitted


def append(state: types.DecodeState, emitted: jax.Array, count: jax.Array
           ) -> tuple[jax.Array, jax.Array]:
  """Writes the first `count` emitted tokens of each row behind its text."""
  slots = jnp.arange(emitted.shape[1])[None]
  capacity = state.tokens.shape[1]
  where = jnp.where(slots < count[:, None],
                    state.length[:, None] + slots, capacity)
  rows = jnp.arange(emitted.shape[0])[:, None]
  tokens = state.tokens.at[rows, where].set(emitted, mode="drop")
  return tokens, state.length + count


def info(state: types.DecodeState, tree: types.DraftTree,
         verdict: types.Verdict) -> types.StepInfo:
  """Counts of a round, by depth 1..D."""
  depth = tree_lib.depths(tree.parents)[:, :, None]
  levels = jnp.arange(1, tree.depth + 1)[None, None]
  nodes = jnp.arange(tree.num_nodes)[None, None]
  active = state.is_running.astype(jnp.int32)
  drafted = ((depth == levels) & tree.valid[:, :, None]).sum(1)
  # Where a round was cut, the last token emitted may be a draft itself.
  last = jnp.take_along_axis(verdict.path, verdict.count[:, None] - 1, 1)
  is_draft = ((tree.parents == last) & tree.valid & (verdict.count > 0)[:, None]
              & (tree.tokens == verdict.next_token[:, None])).any(-1)
  num_accepted = verdict.count - 1 + is_draft.astype(jnp.int32)
  accepted = levels[0] <= num_accepted[:, None]
  is_slot = jnp.arange(verdict.path.shape[1])[None] < verdict.count[:, None]
  visited = ((nodes == verdict.path[:, :, None]) & is_slot[:, :, None]).any(1)
  is_child = tree.parents[:, None, :] == nodes.swapaxes(1, 2)
  has_child = (is_child & tree.valid[:, None, :]).any(-1)
  reached = ((depth + 1 == levels) & (visited & has_child)[:, :, None]).any(1)
  return types.StepInfo(
      active=active, drafted=drafted * active[:, None],
      reached=reached.astype(jnp.int32), accepted=accepted.astype(jnp.int32),
      emitted=verdict.count)
