"""Tests that share compilations run on one worker."""

import pytest


def test_xdist_knows_the_groups(request):
  """A version of it that loses them makes the suite half as slow again."""
  if not getattr(request.config.option, "loadgroup", False):
    pytest.skip("tests are not distributed by group")
  assert request.node.nodeid.endswith("@grouping_test.py")
