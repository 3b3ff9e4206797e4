"""The peak is in bytes on every platform, and only ever grows."""

import types

import numpy as np
import pytest

from spec_jax.evaluation import memory


def test_what_is_held_counts():
  held = np.ones(64 << 20, np.uint8)
  peak = memory.peak_bytes()
  assert held.nbytes < peak < 1 << 40
  del held
  assert memory.peak_bytes() >= peak


@pytest.mark.parametrize("platform,wanted", [
    ("linux", 3 << 20), ("darwin", 3 << 10)])
def test_units_of_the_platform(monkeypatch, platform, wanted):
  usage = types.SimpleNamespace(ru_maxrss=3 << 10)
  monkeypatch.setattr(memory.resource, "getrusage", lambda who: usage)
  monkeypatch.setattr(memory.sys, "platform", platform)
  assert memory.peak_bytes() == wanted
