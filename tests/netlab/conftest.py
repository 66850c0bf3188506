"""A laboratory for a test, or the reason why this machine has none."""

from collections.abc import Iterator

import pytest

from tests.netlab.lab import Lab
from tests.netlab.requirements import what_is_missing


@pytest.fixture
def lab() -> Iterator[Lab]:
    """With addresses that software takes for public."""
    if missing := what_is_missing():
        pytest.skip(missing)
    with Lab(pool="global") as lab:
        yield lab
