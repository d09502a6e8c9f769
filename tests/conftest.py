"""What all tests share. Markers are in pyproject.toml; the cache of assets is the user's own (`SPAMLIT_CACHE`)."""

import os
from pathlib import Path

import hypothesis
import pytest
from tests.faults.table import FaultTable

os.environ.setdefault("GOMP_SPINCOUNT", "100000")  # before torch is imported: as the command does
# One thread for each process of the tests, and for those that they start: tiny models gain nothing from more, and
# pytest-xdist has given every core its own process already.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The machine may be busy: a slow example is no failure, and a failure comes with the blob that repeats it.
hypothesis.settings.register_profile("spamlit", deadline=None, print_blob=True)
hypothesis.settings.load_profile("spamlit")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--faults-table", type=Path, help="Write the table of faults there, as Markdown.")


def pytest_configure(config: pytest.Config) -> None:
    path = None if hasattr(config, "workerinput") else config.getoption("--faults-table")  # one of xdist's knows a part
    config.pluginmanager.register(FaultTable(path))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs only where it is asked for."""
    if "long" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m long"))
