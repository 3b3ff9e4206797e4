"""Trained parts that systems add to the models of a bundle."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import functools
import pathlib
from types import MappingProxyType
from typing import Any

import numpy as np

from spec_jax.controllers import decision
from spec_jax.evaluation import report
from spec_jax.models import bundle as bundle_lib
from spec_jax.models import clover_heads
from spec_jax.models import feature_model
from spec_jax.models import ngram
from spec_jax.models import recurrent_heads
from spec_jax.models import token_heads as networks
from spec_jax.systems import registration
from spec_jax.systems.heads import clover_2
from spec_jax.systems.heads import hydra_pp
from spec_jax.systems.retrieval import superposed
from spec_jax.training import acceptance
from spec_jax.training import bigrams
from spec_jax.training import data
from spec_jax.training import draft_lengths
from spec_jax.training import features
from spec_jax.training import loop
from spec_jax.training import ngrams
from spec_jax.training import token_heads
from spec_jax.training import vocabulary
from spec_jax.trees import expansion
from spec_jax.trees import shapes

# Of a window of the target's own text so much is begun by the corpus.
BEGUN = 0.25
_JUDGED = 32  # Windows that heads are judged by.
# Trees are planned for so many nodes, of so many ranks.
_CALIBRATED, _RANKS = (4, 6, 8, 12, 16, 32, 64), 10


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What a trainer works with.

  Attributes:
    bundle: the models, which stay as they are.
    train: `u16[n]`, text to learn from.
    heldout: `u16[n]`, text to judge by.
    own_text: `(options, tokens, **how) -> u16[n, length]`, text of the target,
      each window begun by `BEGUN` of corpus; options have `own_windows` and
      `length`. The keyword `temperatures` may say at which it is written.
    folder: of checkpoints and log.
    seed: of weights, draws and order.
    checkpoint_every: steps.
    changes: to the recipe.
    progress: `num_steps ->` context of a function for `loop.fit`.
  """

  bundle: bundle_lib.Bundle
  train: np.ndarray
  heldout: np.ndarray
  own_text: Callable[..., np.ndarray]
  folder: pathlib.Path
  seed: int
  checkpoint_every: int
  changes: Mapping[str, Any]
  progress: Callable[[int], Any]

  def adapt(self, options: Any) -> Any:
    """A recipe with what was asked for."""
    return dataclasses.replace(options, **self.changes)


def acceptance_head(options: acceptance.AcceptanceRecipe, run: Run
                    ) -> tuple[dict[str, Any], Any]:
  """A head that predicts acceptance; goes on from its last checkpoint."""
  bundle, options = run.bundle, run.adapt(options)
  target, draft = bundle.target, bundle.models["draft"]
  frozen = {name: bundle.params[name] for name in ("target", "draft")}
  windows = data.Rows(run.own_text(options, run.train), options.batch,
                      run.seed)
  judged = run.own_text(dataclasses.replace(
      options, own_windows=options.batch * 4), run.heldout)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        acceptance.recipe(options, target, draft), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate=acceptance.evaluator(options, target, draft, frozen, judged))
  return options.hyper, params


def draft_heads(options: token_heads.TokenHeadRecipe, run: Run
                ) -> tuple[dict[str, Any], Any]:
  """Heads on the target's features; goes on from its last checkpoint.

  Beside the log it writes calibration.json: how often the token of each rank is
  right, and the trees that this suits, by their number of nodes.
  """
  target, frozen = run.bundle.target, run.bundle.params["target"]
  options = run.adapt(options)
  windows = data.Windows(run.train, options.batch, options.length, run.seed)
  if options.own_windows:
    windows = data.Mixed(windows, run.own_text(options, run.train), run.seed)
  judged = run.own_text(
      dataclasses.replace(options, own_windows=_JUDGED), run.heldout,
      temperatures=(0.0,))
  start = int(BEGUN * options.length)
  evaluate = token_heads.evaluator(
      options, target, frozen, expansion.Shape((1,) * options.levels), judged,
      start)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        token_heads.recipe(options, target, frozen), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate=evaluate)
  accepts = token_heads.rank_accuracy(
      options, target, frozen, params, judged, start, _RANKS)
  report.write_json(run.folder / "calibration.json", {
      "accepts": accepts.tolist(),
      "trees": {nodes: shapes.calibrated(accepts, nodes)
                for nodes in _CALIBRATED}})
  return dict(options.hyper), params


def feature_net(name: str, options: features.FeatureRecipe, run: Run
                ) -> tuple[dict[str, Any], Any]:
  """A net that guesses features; goes on from its last checkpoint."""
  return _fit_features(
      name, run.adapt(options), run, options.hyper, {},
      run.own_text(options, run.train))


def eagle_3(options: features.FeatureRecipe, run: Run
            ) -> tuple[dict[str, Any], Any]:
  """Three taps of the target, and a head for its most frequent tokens."""
  options, config = run.adapt(options), run.bundle.target.config
  own = run.own_text(options, run.train)
  ids = _written(options, run, own, options.vocabulary)
  taps = feature_model.three_depths(config.num_layers)
  return _fit_features("eagle_3", options, run, {
      "taps": taps, "tap_scale": features.tap_scale(
          run.bundle.target, run.bundle.params["target"], taps,
          own[:4].astype(np.int32)),
      "fusion": "attend", "head_size": len(ids), **options.hyper},
                       {feature_model.TOKEN_IDS: ids}, own)


def poss(options: features.FeatureRecipe, run: Run
         ) -> tuple[dict[str, Any], Any]:
  """Specialists that begin as copies of EAGLE's layer."""
  registration.Parts(
      run.bundle.target, {}, heads=run.bundle.heads).head("eagle_2")
  net = run.bundle.params["eagle_2"]
  count = options.hyper["layers"]["num_layers"]
  begin = {"fuse": net["fuse"]} | {
      f"layers_{i}": net["layers_0"] for i in range(count)}
  return _fit_features(
      "poss", run.adapt(options), run, options.hyper, {},
      run.own_text(options, run.train), begin)


def length_predictor(options: draft_lengths.LengthRecipe, run: Run
                     ) -> tuple[dict[str, Any], Any]:
  """How many of EAGLE's drafts will be accepted."""
  bundle, options = run.bundle, run.adapt(options)
  model = feature_model.from_hyper(
      bundle.target, "eagle_2", registration.Parts(
          bundle.target, {}, heads=bundle.heads).head("eagle_2"))
  frozen = {name: bundle.params[name] for name in ("target", "eagle_2")}
  windows = data.Rows(run.own_text(options, run.train), options.batch, run.seed)
  judged = run.own_text(dataclasses.replace(
      options, own_windows=options.judged_windows), run.heldout)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        draft_lengths.recipe(options, model), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate=draft_lengths.evaluator(options, model, frozen, judged))
  return options.hyper, params


def _fit_features(name, options, run, hyper, fixed, own, begin=None):
  """Trains a net; `fixed` are parameters of its part that are not trained."""
  bundle = run.bundle
  model = feature_model.from_hyper(
      bundle.target, name, hyper, name if fixed else None)
  frozen = {"target": bundle.params["target"], name: fixed}
  windows = data.Mixed(
      data.Windows(run.train, options.batch, options.length, run.seed), own,
      run.seed)
  judged = run.own_text(dataclasses.replace(
      options, own_windows=options.judged_windows), run.heldout)
  with run.progress(options.num_steps) as on_step:
    params = loop.fit(
        features.recipe(options, model, frozen, begin), windows,
        num_steps=options.num_steps, folder=run.folder, frozen=frozen,
        seed=run.seed, checkpoint_every=run.checkpoint_every, on_step=on_step,
        evaluate_every=max(1, options.num_steps // 4),
        evaluate=features.evaluator(options, model, frozen, judged))
  return hyper, {**params, **fixed}


def _written(options, run, own, size):
  """The tokens that the target wrote most, and its end of text."""
  end = run.bundle.end_of_text
  vocab_size = run.bundle.target.vocab_size
  return vocabulary.most_frequent(
      own[:, options.length // 4:], vocab_size, min(size, vocab_size),
      () if end is None else (end,))


@dataclasses.dataclass(frozen=True)
class VocabularyRecipe:
  """How the tokens of a draft are chosen.

  Attributes:
    size: how many.
    own_windows: of text that the target writes, where that is counted.
    length: tokens per window, the first quarter of them the corpus's.
  """

  size: int = 512
  own_windows: int = 512
  length: int = 256


def corpus_vocabulary(options: VocabularyRecipe, run: Run
                      ) -> tuple[dict[str, Any], Any]:
  """The tokens most frequent in the corpus."""
  vocab_size = run.bundle.target.vocab_size
  return {}, {feature_model.TOKEN_IDS: vocabulary.most_frequent(
      run.train, vocab_size, min(options.size, vocab_size))}


def own_vocabulary(options: VocabularyRecipe, run: Run
                   ) -> tuple[dict[str, Any], Any]:
  """The tokens that the target writes most."""
  own = run.own_text(options, run.train)
  return {}, {feature_model.TOKEN_IDS: _written(
      options, run, own, options.size)}


def successors(run: Run) -> tuple[dict[str, Any], Any]:
  """Max-Gram's table, counted."""
  return {}, {"successors": bigrams.successors(
      run.train, run.bundle.target.vocab_size)}


def fluency(run: Run) -> tuple[dict[str, Any], Any]:
  """The n-gram model of rescored heads, counted."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size, least=4)
  return {}, ngram.to_params(model)


def count_ratios(run: Run) -> tuple[dict[str, Any], Any]:
  """The n-grams of superposed drafts: plain ratios of counts."""
  model = ngrams.count(run.train, run.bundle.target.vocab_size,
                       order=superposed.ORDER, discount=1e-6, least=4)
  return {}, ngram.to_params(model)


# Draft heads by system. Four levels: the depth of the published trees.
HEADS: MappingProxyType[str, token_heads.TokenHeadRecipe] = MappingProxyType({
    "medusa_1": token_heads.TokenHeadRecipe(
        networks.MedusaHeads, {"num_heads": 4}),
    "hydra": token_heads.TokenHeadRecipe(
        networks.HydraHeads, {"num_heads": 4}, learning_rate=1e-3, decay=1.0),
    "hydra_pp": token_heads.TokenHeadRecipe(
        networks.HydraHeads,
        {"num_heads": 4, "num_layers": 4, "dropout": 0.2},
        encoder_layers=hydra_pp.PREFIX_LAYERS, num_steps=150,
        learning_rate=1e-3, floor=1 / 3, weight_decay=0.1, decay=1.0,
        is_taught=True),
    "clover_2": token_heads.TokenHeadRecipe(
        clover_heads.CloverHeads, {"num_heads": 5}, levels=5,
        encoder_layers=clover_2.ENCODER_LAYERS, num_steps=130,
        learning_rate=1e-3, decay=0.7, is_taught=True, feature_weight=10.0),
    "recurrent_drafter": token_heads.TokenHeadRecipe(
        recurrent_heads.RecurrentHead, {}, levels=5, warmup=0.1, decay=1.0),
    "token_embedding_speculator": token_heads.TokenHeadRecipe(
        recurrent_heads.MlpSpeculator,
        {"num_stages": 4, "is_tied": True, "scales_input": True}, decay=1.0),
    "bpd": token_heads.TokenHeadRecipe(
        networks.BlockwiseHeads, {"num_heads": 4, "hidden": 384}, decay=1.0),
})

# By system: how its part is trained. Returns what the bundle keeps,
# hyper-parameters and parameters.
TRAINERS: MappingProxyType[str, Callable[[Run], tuple[dict[str, Any], Any]]] = (
    MappingProxyType({
        "specdec_pp": functools.partial(
            acceptance_head, acceptance.AcceptanceRecipe()),
        "mcsd_improved": functools.partial(
            acceptance_head, acceptance.AcceptanceRecipe(
                decision.DecisionNetwork(), is_ahead=True,
                mismatch_weight=1.0)),
        "cs_drafting": successors, "bpd_rescored": fluency,
        "superposed": count_ratios,
        **{name: functools.partial(draft_heads, options)
           for name, options in HEADS.items()},
        "eagle_2": functools.partial(
            feature_net, "eagle_2", features.FeatureRecipe()),
        "eagle_3": functools.partial(eagle_3, features.FeatureRecipe(
            num_steps=1500, batch=4, learning_rate=4e-3, steps=3,
            feature_weight=0.0, law_weight=1.0, noise=0.0)),
        "poss": functools.partial(poss, features.FeatureRecipe(
            {"layers": {"num_layers": 3}, "span": 1}, num_steps=150,
            learning_rate=5e-4, steps=4, step_decay=1.0, is_detached=True)),
        "ada_eagle": functools.partial(
            length_predictor, draft_lengths.LengthRecipe()),
        "fr_spec": functools.partial(corpus_vocabulary, VocabularyRecipe()),
        "vocab_trim": functools.partial(own_vocabulary, VocabularyRecipe()),
    }))
