"""What of a record is drawn."""

from experiments import tables


def record(calls, marginal, conditional):
  spread = {"median": 1.0, "lower": 0.9, "upper": 1.1}
  return {"system": "a", "predicted_speedup": 1.0, "clock": {"speedup": spread},
          "counts": {"target_calls": calls, "block_efficiency": 2.0,
                     "marginal_by_depth": marginal,
                     "conditional_by_depth": conditional}}


def line(name, in_turn):
  counts = {"block_efficiency": 2.0, "acceptance": 0.5,
            "conditional_by_depth": [0.5]}
  spread = {"median": 1.0, "lower": 0.9, "upper": 1.1}
  return tables.line({
      "system": name, "exact": True, "counts": counts, "acceptance": None,
      "clock": {"speedup": spread, "tokens_per_second": spread},
      "predicted_speedup": 1.0, "overhead": 1.0} | in_turn)


def test_forwards_in_turn_have_a_column_where_they_were_timed():
  # Records of before there was such a time have none.
  old, new = line("a", {}), line("b", {"predicted_in_turn": 1.5})
  void = tables.void_line("c", "no memory")
  assert list(old) == list(new) == list(void)
  assert "in turn" not in tables.table([old, void])
  head, _, *rest = tables.table([old, new, void]).splitlines()
  place = head.split("|").index(" in turn ")
  assert [row.split("|")[place].strip() for row in rest] == ["-", "1.50x", "-"]


def test_depths_of_few_tries_are_not_drawn():
  shares = [0.5, 0.5, 0.25], [0.5, 1.0, 0.5]
  assert tables.bar(record(100, *shares)).conditional_by_depth == (
      0.5, 1.0, 0.5)
  assert tables.bar(record(39, *shares)).conditional_by_depth == (0.5,)
  assert not tables.bar(record(19, *shares)).conditional_by_depth
