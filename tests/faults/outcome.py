"""What a fault may do: lose work, or give a wrong answer; and how many cases of it are tried."""

import os
from collections.abc import Sequence
from typing import Any

import pytest

FULL = os.environ.get("SPAMLIT_FAULTS") == "full"


class Lost(AssertionError):  # noqa: N818  # reads as `raise Lost`
    """Work that was done is gone."""


class Wrong(AssertionError):  # noqa: N818
    """An answer is wrong, or somebody else's code ran."""


def cases(short: int, full: int) -> Sequence[Any]:
    """The cases' numbers: each is its case's seed. `full` of them where `SPAMLIT_FAULTS=full` (`make faults`).

    A test that tries many cases itself says how many with pytest's fixture: `record_property("cases", 1000)`.
    """
    numbers = range(full if FULL else short)
    return numbers or [pytest.param(0, marks=pytest.mark.skip(reason="full form only: make faults"))]
