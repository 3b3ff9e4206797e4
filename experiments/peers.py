"""The same models decoded by `transformers`, counted and timed alike.

Needs the extra `parity` (torch, transformers); nothing else here does.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import time
from typing import Any

import jax

import spec_jax
from spec_jax.evaluation import clock as clock_lib
from spec_jax.models import export

AUTOREGRESSIVE, ASSISTED, LOOKUP = (
    "transformers autoregressive", "transformers assisted",
    "transformers prompt lookup")


def libraries() -> tuple[Any, Any]:
  """Torch and transformers.

  Raises:
    ValueError: how to install them.
  """
  try:
    import torch  # pylint: disable=g-import-not-at-top
    import transformers  # pylint: disable=g-import-not-at-top
  except ImportError as error:
    raise ValueError(
        f"{error.name or error} is not installed; the comparison with"
        " transformers needs the extra 'parity': pip install -c"
        " constraints.txt -e '.[parity]'.") from error
  return torch, transformers


@dataclasses.dataclass(frozen=True)
class Answer:
  """One pass over the prompts.

  Attributes:
    lap: time and tokens; the prompts' part of the time is not told apart.
    rows: emitted ids of each prompt.
    target_calls: forwards of the target, the one over the prompt included.
  """

  lap: clock_lib.Lap
  rows: list[list[int]]
  target_calls: int


class Transformers:
  """Target and draft of a bundle, exported and loaded by `transformers`."""

  def __init__(self, bundle: spec_jax.Bundle, folder: pathlib.Path,
               device: str | None = None, dtype: str = "auto"):
    """Exports and loads.

    Args:
      bundle: with a model "draft" for assisted generation.
      folder: for the exported models.
      device: of torch; default: a GPU if there is one.
      dtype: of their parameters and computation; "auto": of ours.

    Raises:
      ValueError: the extra is not installed, or the models are no Llamas.
    """
    self._torch, transformers = libraries()
    transformers.utils.logging.set_verbosity_error()
    self.device = device or (
        "cuda" if self._torch.cuda.is_available() else "cpu")
    self._end = bundle.end_of_text
    self._models, self._calls = {}, 0
    models = {"target": bundle.target} | {
        k: m for k, m in bundle.models.items() if k == "draft"}
    for name, model in models.items():
      # Narrow weights keep their values.
      params = jax.tree.map(
          lambda a, model=model: a.astype(model.dtype), bundle.params[name])
      export.save_hf(folder / name, model, params, bundle.tokenizer)
      loaded = transformers.AutoModelForCausalLM.from_pretrained(
          folder / name, dtype=dtype)
      self._models[name] = loaded.to(self.device).eval()
    self._models["target"].register_forward_pre_hook(self._count)

  def set_threads(self, threads: int, prompt: Sequence[int],
                  num_tokens: int = 8) -> None:
    """Gives torch its threads.

    Args:
      threads: how many; 0: one, or one per core, whichever decodes faster.
        With small matrices, or on a busy machine, threads that wait for each
        other take longer than one alone.
      prompt: decoded to find out.
      num_tokens: tokens decoded to find out.
    """
    if threads or self.device != "cpu":
      self._torch.set_num_threads(threads or self._torch.get_num_threads())
      return
    run = self.passer(AUTOREGRESSIVE, [prompt], num_tokens, 0.0, 1)
    seconds = {}
    for threads in sorted({1, os.cpu_count() or 1}):
      self._torch.set_num_threads(threads)
      run()
      seconds[threads] = min(run().lap.rounds for _ in range(2))
    self._torch.set_num_threads(min(seconds, key=seconds.get))

  def versions(self) -> dict[str, str]:
    """For a result card."""
    torch, transformers = libraries()
    return {"torch": torch.__version__, "device": self.device,
            "transformers": transformers.__version__,
            "threads": str(torch.get_num_threads())}

  def passer(self, name: str, prompts: Sequence[Sequence[int]],
             max_new_tokens: int, temperature: float, depth: int, seed: int = 0
             ) -> Callable[[], Answer]:
    """A pass of one of the three ways to decode over all prompts, one by one.

    Args:
      name: `AUTOREGRESSIVE`, `ASSISTED` or `LOOKUP`.
      prompts: token ids.
      max_new_tokens: per prompt.
      temperature: 0 is greedy.
      depth: tokens to draft.
      seed: of torch, set before each pass.
    """
    options = {"max_new_tokens": max_new_tokens, "eos_token_id": self._end,
               "pad_token_id": self._end or 0, "do_sample": temperature > 0}
    if temperature > 0:
      # The defaults would cut the law to its 50 most likely tokens.
      options |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    if name == ASSISTED:
      assistant = self._models["draft"]
      # A fixed length, as ours; else a heuristic would change it.
      assistant.generation_config.num_assistant_tokens = depth
      assistant.generation_config.num_assistant_tokens_schedule = "constant"
      assistant.generation_config.assistant_confidence_threshold = 0.0
      options["assistant_model"] = assistant
    elif name == LOOKUP:
      options["prompt_lookup_num_tokens"] = depth

    def run():
      self._torch.manual_seed(seed)
      rows, seconds, self._calls = [], 0.0, 0
      for prompt in prompts:
        tokens = self._torch.tensor([list(prompt)], device=self.device)
        begin = time.perf_counter()
        with self._torch.inference_mode():
          found = self._models["target"].generate(
              tokens, attention_mask=self._torch.ones_like(tokens), **options)
        row = found[0, len(prompt):].tolist()  # Waits for the device.
        seconds += time.perf_counter() - begin
        rows.append(row)
      emitted = sum(map(len, rows))
      return Answer(clock_lib.Lap(0.0, seconds, self._calls, emitted), rows,
                    self._calls)
    return run

  def _count(self, *_):
    self._calls += 1
