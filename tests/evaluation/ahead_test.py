"""Work of threads comes back in order, and errors come out."""

import threading

import pytest

from spec_jax.evaluation import ahead


def test_results_come_in_order_whoever_ends_first():
  gate = threading.Event()
  if ahead.num_threads() < 2:  # Nobody would open the gate.
    gate.set()

  def late():
    assert gate.wait(60)
    return "late"

  assert ahead.together([late, gate.set, lambda: 3]) == [
      "late", None, 3]
  assert ahead.together([]) == []


def test_the_body_goes_on_and_the_block_waits():
  gate, order = threading.Event(), []

  def work():
    assert gate.wait(60)
    order.append("work")

  with ahead.beside([work]):
    order.append("body")
    gate.set()
  assert order == ["body", "work"]


def test_an_error_in_a_thread_is_raised_when_the_block_ends():
  def fail():
    raise ValueError("no such thing")

  with pytest.raises(ValueError, match="no such thing"):
    ahead.together([fail, lambda: 1])


def test_an_error_in_the_body_leaves_out_what_has_not_begun():
  gate, begun = threading.Event(), []

  def work():
    begun.append(1)
    assert gate.wait(60)

  with pytest.raises(KeyError):
    with ahead.beside([work] * 50):
      threading.Timer(0.2, gate.set).start()
      raise KeyError("body")
  assert len(begun) < 50
