"""The host loop writes what the device loop writes."""

import pytest

from spec_jax.executors import hosted
from tests.executors import cases


@pytest.mark.parametrize("name", cases.CASES)
def test_equals_fused(name):
  cases.assert_equal(cases.run(hosted.Hosted(), name), cases.expected(name))


def test_stream_grows_into_the_whole():
  pieces = list(hosted.Hosted().stream(
      *cases.build("prompt_lookup"), *cases.inputs(), rounds_per_yield=3))
  lengths = [piece.length.tolist() for piece in pieces]
  assert lengths == sorted(lengths) and len(pieces) > 1
  assert pieces[0].counts.target_calls.max() == 3
  cases.assert_equal(pieces[-1], cases.expected("prompt_lookup"))
