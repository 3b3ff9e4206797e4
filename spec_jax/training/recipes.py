"""How the shipped models are made: the sizes, the data, the schedules."""

import dataclasses
import functools

import jax
import numpy as np

from spec_jax.models import config as config_lib
from spec_jax.models import contract
from spec_jax.training import early_exit
from spec_jax.training import growth
from spec_jax.training import loop
from spec_jax.training import losses
from spec_jax.training import optimizers


@dataclasses.dataclass(frozen=True)
class ModelRecipe:
  """One model of a bundle.

  Attributes:
    config: of the decoder.
    num_steps: optimiser steps.
    batch: windows per step.
    length: tokens per window.
    learning_rate: peak.
    decay: fraction of the steps over which the rate falls to 0.
    grown_from: name of a model of at most this depth whose weights are the
      start, or None.
    teacher: name of the model whose law is learnt, or None for the corpus.
    loss: to the teacher's law, by name in `losses`.
    own_windows: so many windows are written by the teacher itself, half of
      them greedily; half of each batch is then such text. A draft is asked
      about the teacher's text, which repeats itself more than people do.
    is_shipped: whether the bundle contains it.
    optimizer: by `optimizers.BY_NAME`.
    data_seed: of the order of the windows and of the teacher's text; stages
      that follow each other take different ones, so as to read other text.
    dtype: of the training's forward and backward passes; weights, optimiser
      and sums stay in float32.
    weight_decay: None for the optimiser's own.
    exit_scale: weight of the early-exit losses, see `early_exit`; 0 for none.
    exit_rotation: each step trains every so many-th exit.
  """

  config: config_lib.DecoderConfig
  num_steps: int
  batch: int = 16
  length: int = 256
  learning_rate: float = 1e-2
  decay: float = 0.5
  grown_from: str | None = None
  teacher: str | None = None
  loss: str = "forward_kl"
  own_windows: int = 0
  is_shipped: bool = True
  optimizer: str = "muon"
  data_seed: int = 0
  dtype: str = "float32"
  weight_decay: float | None = None
  exit_scale: float = 0.0
  exit_rotation: int = 1


def _decoder(d_model, num_layers, num_kv_heads, d_ff):
  # Embeddings are scaled as in Gemma: with tied embeddings a table small enough
  # for the logits would be drowned by the first block's output.
  return config_lib.DecoderConfig(
      vocab_size=2048, d_model=d_model, num_layers=num_layers,
      num_heads=d_model // 64, num_kv_heads=num_kv_heads, head_dim=64,
      d_ff=d_ff, max_positions=1024, embed_scale=d_model ** 0.5)


# Stages run in the order of the table. The target's weights (41 MB in float32)
# exceed the last-level cache of common machines, as those of large models do:
# a forward of one token is bound by memory, and a few more tokens are cheap.
# The batches suit a GPU; a CPU needs a day or two for them.
_LARGE = dict(batch=32, length=512, decay=0.8, dtype="bfloat16")
_DRAFT = _decoder(192, 3, 1, 512)
BUNDLES = {
    "tiny-python": {
        "target": ModelRecipe(_decoder(384, 6, 2, 1024), num_steps=2000,
                              learning_rate=4e-3, weight_decay=0.05, **_LARGE),
        "imitation": ModelRecipe(_DRAFT, num_steps=4400, learning_rate=4e-3,
                                 teacher="target", own_windows=4096,
                                 is_shipped=False, **_LARGE),
        "rejection": ModelRecipe(_DRAFT, num_steps=3000, learning_rate=2e-3,
                                 grown_from="imitation", teacher="target",
                                 loss="rejection", own_windows=16384,
                                 is_shipped=False, data_seed=1, **_LARGE),
        # The same once more, longer and at half the rate.
        "draft": ModelRecipe(_DRAFT, num_steps=8000, learning_rate=1e-3,
                             grown_from="rejection", teacher="target",
                             loss="rejection", own_windows=9216, data_seed=2,
                             **_LARGE),
    },
    # Deep and thin, every layer of it trained to be read out: for systems that
    # draft with the target's own layers.
    "tiny-python-deep": {
        "target": ModelRecipe(_decoder(192, 16, 1, 512), num_steps=2000,
                              learning_rate=4e-3, weight_decay=0.05,
                              exit_scale=0.2, exit_rotation=8, **_LARGE),
    },
    # The same recipe at a size that runs in seconds; for tests.
    "smoke": {
        "shallow": ModelRecipe(_decoder(64, 1, 1, 96), num_steps=8, batch=2,
                               length=32, decay=0.0, is_shipped=False,
                               optimizer="adam", learning_rate=2e-3),
        "target": ModelRecipe(_decoder(64, 2, 1, 96), num_steps=12, batch=2,
                              length=32, grown_from="shallow",
                              dtype="bfloat16"),
        "imitation": ModelRecipe(_decoder(64, 1, 1, 64), num_steps=12, batch=2,
                                 length=32, teacher="target", own_windows=8,
                                 is_shipped=False),
        "draft": ModelRecipe(_decoder(64, 1, 1, 64), num_steps=12, batch=2,
                             length=32, grown_from="imitation",
                             teacher="target", loss="rejection",
                             own_windows=8),
    },
}


# Hyper-parameters that suit the shipped pair on a CPU, where a forward of many
# tokens is not free: small trees, and any match that the text offers.
#
# Sequoia's acceptance is of temperature 0.8, for which its rule is made; at
# 0 it is 0.917, 0.044, 0.017, ..., with the same tree of six nodes:
#   python -m experiments.calibrate --bundle=tiny-python --num_prompts=16
# Costs are those of two CPU cores: the target's forward of one token 1.2 ms on
# one machine (2.4 on another), of 8 tokens 2.0 (4.4), the draft's 0.11 (0.22).
_COSTS = {"draft_cost": 0.09, "check_cost": 0.12}
TUNED = {
    "tiny-python": {
        "aded": {"simulations": 32, "budget": 8, "paths": 4, "width": 4},
        "block_verification": {"depth": 7, **_COSTS},
        "canonical_is": {"num_sequences": 2, "depth": 4},
        "clasp": {"depth": 4},
        "cs_drafting": {"reviewed": 7, "unreviewed": 0, "proposed": 4},
        "del_exit": {"depth": 6},
        "draft_and_verify": {"depth": 4},
        "dresd": {"depth": 4, "drafts": 2},
        "dyspec": {"budget": 7, "depth": 4, "width": 2, "top_k": 3},
        "eagle_2": {"budget": 8, "depth": 5, "top_k": 2},
        "eagle_3": {"budget": 8, "depth": 5, "top_k": 2},
        "gumbel_coupled": {"depth": 6, **_COSTS},
        "hierarchy_drafting": {"level": 4, "width": 2, "guesses": 2,
                               "budget": 8},
        "hydra_pp": {"branching": ((3,), (2, 1, 0), (1, 0, 0))},
        "lookahead": {"level": 4, "width": 2, "guesses": 2},
        "mcsd": {"branching": (3, 1, 1, 1)},
        "mcsd_improved": {"depth": 4},
        "mdsd_greedy": {"branching": (2, 1, 1, 1)},
        "medusa_1": {"branching": ((4,), (1, 0, 0, 0))},
        "multi_sample": {"depth": 5},
        "opt_tree": {"budget": 7, "depth": 4, "width": 2, "top_k": 3},
        "ouroboros": {"depth": 5, "level": 4, "width": 2, "guesses": 2,
                      "suffixes": 1},
        "prompt_lookup": {"depth": 4, "take_latest": True, "allow_short": True},
        "race_transport": {"branching": (2, 1, 1, 1)},
        "rasd": {"branching": (2, 1, 1, 1), "keep": 3, "depth": 5, "budget": 8},
        "recurrent_drafter": {"width": 3, "depth": 2},
        "rest": {"budget": 8, "depth": 6},
        "rsd_c": {"branching": (2, 1, 1, 1)},
        "rsd_s": {"width": 2, "depth": 4},
        "sam_decoding": {"depth": 7, "tree_width": 2, "tree_depth": 4},
        "sequoia": {"budget": 6, "depth": 4, "acceptance": (
            0.7783, 0.0792, 0.033, 0.0163, 0.0143, 0.0103, 0.0059, 0.0065)},
        "specdec_pp": {"depth": 8},
        "spechub": {"branching": (2, 1, 1, 1)},
        "specinfer": {"branching": (2, 1, 1, 1)},
        "spectr": {"num_sequences": 2, "depth": 4},
        "speculative_sampling": {"depth": 6, **_COSTS},
        "suffix_decoding": {"budget": 8, "depth": 7},
        "swift": {"depth": 5},
        "token_recycling": {"width": 2, "depth": 4},
        "traversal_verification": {"branching": (2, 1, 1, 1)},
    },
}


def corpus_recipe(recipe: ModelRecipe, start=None) -> loop.Recipe:
  """Next-token cross-entropy on the corpus; `start`: parameters to grow."""
  model = contract.decoder_model(recipe.config, recipe.dtype)

  def loss(params, frozen, tokens, key):
    del frozen
    if recipe.exit_scale:
      return early_exit.loss(model, params, tokens, key, recipe.exit_scale,
                             recipe.exit_rotation)
    return losses.next_token(model.score(params, tokens).logits, tokens), {}

  return loop.Recipe(_init(model, start), loss, _optimizer(recipe))


def distillation_recipe(recipe: ModelRecipe, teacher: contract.LinenModel,
                        start=None) -> loop.Recipe:
  """The recipe's loss to the frozen teacher (`frozen` = its parameters).

  The gradient of the forward KL is that of the cross-entropy with the
  teacher's law as soft labels (DistillSpec, Sec. 3.2).
  """
  distance = getattr(losses, recipe.loss)
  model = contract.decoder_model(recipe.config, recipe.dtype)
  teacher = contract.decoder_model(teacher.config, recipe.dtype)

  def loss(params, frozen, tokens, key):
    del key
    p_logits = jax.lax.stop_gradient(teacher.score(frozen, tokens).logits)
    q_logits = model.score(params, tokens).logits
    return distance(p_logits, q_logits), {
        "acceptance": 1 - losses.total_variation(p_logits, q_logits),
        "agreement": losses.agreement(p_logits, q_logits),
    }

  return loop.Recipe(_init(model, start), loss, _optimizer(recipe))


def _init(model, start):
  if start is None:
    return model.init
  return lambda key: growth.deepen(start, model.config.num_layers)


def _optimizer(recipe):
  make = optimizers.BY_NAME[recipe.optimizer]
  if recipe.weight_decay is not None:
    make = functools.partial(make, weight_decay=recipe.weight_decay)
  return make(recipe.learning_rate, recipe.num_steps,
              warmup=min(50, recipe.num_steps // 4), decay=recipe.decay)


def evaluator(recipe: ModelRecipe, stream: np.ndarray, num_bytes: int,
              teacher: contract.LinenModel | None = None, frozen=None,
              num_windows: int = 64):
  """`params -> metrics` on held-out text.

  Args:
    recipe: of the model.
    stream: `u16[n]`, the packed held-out text.
    num_bytes: its size before tokenisation.
    teacher: also measures acceptance and agreement with it, if given.
    frozen: the teacher's parameters.
    num_windows: evenly spread over the text.
  """
  model = contract.decoder_model(recipe.config)
  length = recipe.length
  starts = np.linspace(0, len(stream) - length, num_windows).astype(int)
  windows = stream[starts[:, None] + np.arange(length)].astype(np.int32)
  bytes_per_token = num_bytes / len(stream)

  @jax.jit
  def measure(params, frozen, tokens):
    logits = model.score(params, tokens).logits
    metrics = {"loss": losses.next_token(logits, tokens)}
    if teacher is not None:
      p_logits = teacher.score(frozen, tokens).logits
      metrics["acceptance"] = 1 - losses.total_variation(p_logits, logits)
      metrics["agreement"] = losses.agreement(p_logits, logits)
    return metrics

  def evaluate(params):
    parts = [measure(params, frozen, part)
             for part in np.array_split(windows, max(1, num_windows // 16))]
    means = {k: float(np.mean([part[k] for part in parts])) for k in parts[0]}
    means["bits_per_byte"] = means["loss"] / np.log(2) / bytes_per_token
    return means

  return evaluate
