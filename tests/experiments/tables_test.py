"""What of a record is drawn."""

from experiments import tables


def record(calls, marginal, conditional):
  spread = {"median": 1.0, "lower": 0.9, "upper": 1.1}
  return {"system": "a", "predicted_speedup": 1.0, "clock": {"speedup": spread},
          "counts": {"target_calls": calls, "block_efficiency": 2.0,
                     "marginal_by_depth": marginal,
                     "conditional_by_depth": conditional}}


def test_depths_of_few_tries_are_not_drawn():
  shares = [0.5, 0.5, 0.25], [0.5, 1.0, 0.5]
  assert tables.bar(record(100, *shares)).conditional_by_depth == (
      0.5, 1.0, 0.5)
  assert tables.bar(record(39, *shares)).conditional_by_depth == (0.5,)
  assert not tables.bar(record(19, *shares)).conditional_by_depth
