"""What a fault may do: lose work, or give a wrong answer; and how many cases of it are tried."""

import os

FULL = os.environ.get("SPAMLIT_FAULTS") == "full"


class Lost(AssertionError):
    """Work that was done is gone."""


class Wrong(AssertionError):
    """An answer is wrong, or somebody else's code ran."""


def cases(short: int, full: int) -> range:
    """The cases' numbers: each is its case's seed. `full` of them where `SPAMLIT_FAULTS=full` (`make faults`)."""
    return range(full if FULL else short)
