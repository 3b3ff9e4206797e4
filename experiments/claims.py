"""The order that papers and public benchmarks give training-free systems.

One entry a source, workload and quantity, the best system first. Only what the
sources state is here; what they measured on is in the text of the source.
Workloads are of three kinds: "code" is continued, "chat" asks in prose, "edits"
has most of the answer in the prompt; "any" where the source does not say.
"""

import dataclasses

KINDS = ("code", "chat", "edits")
# What is compared, as `judging.measured` reads it from a cell.
QUANTITIES = ("speed-up", "tokens/call", "acceptance")


@dataclasses.dataclass(frozen=True)
class Claim:
  """An order of systems.

  Attributes:
    order: names, the best first.
    quantity: one of `QUANTITIES`.
    kind: one of `KINDS`, or "any".
    is_greedy: whether at temperature 0, else above.
    source: where it stands, on what.
  """

  order: tuple[str, ...]
  quantity: str
  kind: str
  is_greedy: bool
  source: str

  def __post_init__(self):
    if len(self.order) < 2 or len(set(self.order)) < len(self.order):
      raise ValueError(f"order={self.order}, expected two or more systems.")
    for name, allowed in (("quantity", QUANTITIES), ("kind", (*KINDS, "any"))):
      if getattr(self, name) not in allowed:
        raise ValueError(f"{name}={getattr(self, name)!r}, expected one of"
                         f" {', '.join(allowed)}.")


_SPEC_BENCH = "Spec-Bench leaderboard, Vicuna-7B, greedy"
_ARCTIC = "ArcticInference documentation, Llama-3.1-8B, vLLM"
_CLASP = "CLaSp (2505.24196), Spec-Bench, LLaMA-3-70B"
_AR = "autoregressive"

CLAIMS = (
    Claim(("token_recycling", "prompt_lookup", "speculative_sampling", "rest",
           "lookahead", _AR), "speed-up", "chat", True,
          f"{_SPEC_BENCH}, A100"),
    Claim(("speculative_sampling", "prompt_lookup", "token_recycling", "rest",
           "lookahead", _AR), "speed-up", "chat", True,
          f"{_SPEC_BENCH}, RTX 3090"),
    Claim(("token_recycling", "speculative_sampling", "rest", "prompt_lookup",
           "lookahead", _AR), "tokens/call", "chat", True,
          f"{_SPEC_BENCH}, A100"),
    Claim(("sam_decoding", "token_recycling"), "tokens/call", "chat", True,
          "SAM Decoding repository (Spec-Bench, Vicuna-7B, with Token"
          " Recycling: 3.03) beside the Spec-Bench leaderboard (2.73)"),
    Claim(("sam_decoding", _AR), "speed-up", "chat", True,
          "SAM Decoding repository, Spec-Bench, Vicuna-7B, A6000"),
    Claim(("suffix_decoding", "token_recycling"), "speed-up", "edits", True,
          "SuffixDecoding (2411.04975), abstract, agentic benchmarks"),
    Claim(("suffix_decoding", "prompt_lookup", _AR), "speed-up", "edits", True,
          f"{_ARCTIC}, SWE-Bench"),
    Claim(("suffix_decoding", "prompt_lookup", _AR), "speed-up", "code", True,
          f"{_ARCTIC}, HumanEval"),
    Claim(("suffix_decoding", "prompt_lookup", _AR), "speed-up", "chat", True,
          f"{_ARCTIC}, ShareGPT"),
    *(Claim(("dresd", "rest"), quantity, kind, True,
            f"DReSD (2502.15572), abstract, Llama2-Chat-7B; here {name}")
      for quantity in QUANTITIES
      for kind, name in (("code", "CodeAlpaca"), ("chat", "MT-Bench"))),
    *(Claim(("hierarchy_drafting", name), "speed-up", "chat", True,
            "Hierarchy Drafting (2502.05609), abstract, Spec-Bench: better than"
            " other database drafters")
      for name in ("rest", "lookahead")),
    *(Claim(("ouroboros", name), "speed-up", "any", True,
            "Ouroboros (2402.13720), abstract")
      for name in ("lookahead", "speculative_sampling")),
    Claim(("clasp", "draft_and_verify", "swift", _AR), "speed-up", "chat", True,
          f"{_CLASP}, greedy"),
    Claim(("clasp", _AR), "speed-up", "chat", False,
          f"{_CLASP}, temperature 1"),
    Claim(("rest", _AR), "speed-up", "code", True,
          "REST (2311.08252), abstract, code or text, 7B and 13B models"),
    Claim(("rest", _AR), "speed-up", "chat", True,
          "REST (2311.08252), abstract, code or text, 7B and 13B models"),
    Claim(("rasd", _AR), "speed-up", "code", True,
          "RASD (2503.03434), HumanEval, by an index of benchmarks"),
    Claim(("aded", _AR), "speed-up", "any", True,
          "ADED (2407.12021), repository"),
    Claim(("del_exit", _AR), "speed-up", "any", True,
          "DEL (2504.05598), abstract, models trained with LayerSkip"),
    Claim(("lookahead", _AR), "speed-up", "any", True,
          "Lookahead Decoding (2402.02057), repository"),
    Claim(("swift", _AR), "speed-up", "any", True,
          "SWIFT (2410.06916), abstract"),
    Claim(("draft_and_verify", _AR), "speed-up", "any", True,
          "Draft & Verify (2309.08168), abstract, LLaMA-2"),
    Claim(("kangaroo", _AR), "speed-up", "chat", True,
          "Kangaroo (2404.18911), abstract, Spec-Bench, Vicuna-7B"),
    Claim(("eesd", "draft_and_verify"), "speed-up", "any", True,
          "EESD (2406.03853), abstract, 13B and 70B models"),
)
