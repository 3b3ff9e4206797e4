"""The order that papers and public benchmarks give trained drafters.

As `claims`, but of drafters that decode for one target. What the sources
measured on, mostly conversations, is in their text; a race has one workload,
so that all are held against it.
"""

from experiments import claims

_SPEC_BENCH = "Spec-Bench leaderboard, Vicuna-13B, A100"
_BOTH = ("speed-up", "tokens/call")


def _claim(order, quantity, source):
  return claims.Claim(order, quantity, "any", True, source)


CLAIMS = (
    *(_claim(("eagle_3", "eagle_2", "hydra_pp", "medusa_1"), quantity,
             _SPEC_BENCH) for quantity in _BOTH),
    *(_claim(("eagle_3", "eagle_2", "hydra", "medusa_1"), quantity,
             "EAGLE-3 (2503.01840), mean over its tasks, Vicuna-13B")
      for quantity in _BOTH),
    _claim(("hydra_pp", "hydra", "medusa_1"), "speed-up",
           "Hydra (2402.05109), MT-bench, Vicuna"),
    *(_claim(("medusa_2", "medusa_1"), quantity,
             "Medusa (2401.10774), MT-bench, Vicuna-7B") for quantity in _BOTH),
    *(_claim(order, "speed-up",
             "KOALA (2408.08146), abstract, heads of Medusa and EAGLE")
      for order in (("koala", "medusa_1"), ("koala_eagle", "eagle_2"))),
    *(_claim(("gumiho", "eagle_2"), quantity,
             "Gumiho (2503.10135), mean over six tasks, six targets")
      for quantity in _BOTH),
    *(_claim(("poss", "eagle_2"), quantity,
             "PosS (2506.03566), abstract, six tasks") for quantity in _BOTH),
    _claim(("fspad", "eagle_2"), "tokens/call",
           "FSPAD (2408.15562), abstract, Spec-Bench: 0.28 to 0.48 more"),
    *(_claim((name, "eagle_2"), "speed-up", f"{source}, abstract")
      for name, source in (("jakiro", "Jakiro (2502.06282)"),
                           ("coral", "CORAL (2502.16880)"))),
    _claim(("kangaroo", "medusa_1"), "speed-up",
           "Kangaroo (2404.18911), abstract, Spec-Bench, single sequences"),
    _claim(("eesd", "medusa_1"), "speed-up",
           "EESD (2406.03853), abstract, 13B and 70B models"),
)
