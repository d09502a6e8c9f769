"""The table of `make faults`: what was done to the program, how often, and what came of it.

A plugin that counts the tests with the marker `fault`, wherever they are. What a test gave travels with its report, so
the counts are the same with pytest-xdist, where this process sees nothing but reports.
"""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.faults.outcome import FULL, Lost

COLUMNS = ("cases", "survived", "lost", "wrong", "skipped")


class Found(NamedTuple):
    """What came of a test.

    Attributes:
        fault: the marker's words: kind and target.
        outcome: a column of the table.
        cases: that the test tried: one, or what it says with `record_property("cases", n)`.
        reason: why it was skipped.
    """

    fault: tuple[str, ...]
    outcome: str
    cases: int = 1
    reason: str = ""


class FaultTable:
    """Counts outcomes by fault.

    Args:
        path: of the Markdown table; written when all that was asked for has run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.found: dict[str, Found] = {}
        self.cpu_seconds = 0.0
        self.started = time.monotonic()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        item.stash[_CPU] = _cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        """Writes into the report what only the process that ran the test knows."""
        report = yield
        if marker := item.get_closest_marker("fault"):
            report.fault = {
                "name": marker.args,
                "lost": call.excinfo is not None and call.excinfo.errisinstance(Lost),
                "cpu_seconds": _cpu_seconds() - item.stash[_CPU] if call.when == "teardown" else 0.0,
            }
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes what a test gave; a failure when it cleans up behind itself is one too."""
        fault = getattr(report, "fault", None)
        if fault is None:
            return
        self.cpu_seconds += fault["cpu_seconds"]
        name = tuple(fault["name"])
        if report.failed:
            self.found[report.nodeid] = Found(name, "lost" if fault["lost"] else "wrong")
        elif report.skipped:
            self.found[report.nodeid] = Found(name, "skipped", reason=_reason(report))
        elif report.when == "call":
            cases = dict(report.user_properties).get("cases", 1)
            self.found[report.nodeid] = Found(name, "survived", cases)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
        if not self.found:
            return
        terminalreporter.section("faults")
        terminalreporter.write_line(self.markdown())
        whole = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        if self.path and whole:
            self.path.write_text(f"{HEAD}\n{self.markdown()}\n", encoding="utf-8")
            terminalreporter.write_line(f"written to {self.path}")

    def markdown(self) -> str:
        """The table with its sum, what was skipped and why, and where and how long it ran."""
        counts: dict[tuple[str, ...], Counter[str]] = {}
        skipped: Counter[str] = Counter()
        for fault, outcome, cases, reason in self.found.values():
            counts.setdefault(fault, Counter()).update({outcome: cases, "cases": cases if outcome != "skipped" else 0})
            if reason:
                skipped[f"{', '.join(fault)}: {reason}"] += 1
        total: Counter[str] = sum(counts.values(), Counter())
        rows = [["fault", "what it hits", *COLUMNS]]
        rows += [[*fault, *(str(of[column]) for column in COLUMNS)] for fault, of in sorted(counts.items())]
        rows += [["**all**", "", *(f"**{total[column]}**" for column in COLUMNS)]]
        rows[1:1] = [["---", "---", *["---:"] * len(COLUMNS)]]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        reasons = "\n".join(f"- {reason} ({n})" for reason, n in sorted(skipped.items()))
        took = timedelta(seconds=round(time.monotonic() - self.started))
        cpu = timedelta(seconds=round(self.cpu_seconds))
        foot = (
            f"{'Full' if FULL else 'Short'} form, {took} (h:mm:ss), {cpu} of processor time, at commit "
            f"{_commit()} on {os.cpu_count()} cores ({platform.machine()}, {platform.system()} "
            f"{platform.release()}), Python {platform.python_version()}."
        )
        return "\n\n".join(filter(None, [table, reasons and f"Skipped:\n\n{reasons}", foot]))


HEAD = """# Faults

What is done to the program, and what comes of it; written by `make faults`, which runs all tests marked `fault`.
*Survived*: the work is there, the answer right, or the refusal says why. *Lost*: work that was done is gone. *Wrong*: a
wrong answer, somebody else's code ran, or anything else that the test did not expect.
"""

_CPU = pytest.StashKey[float]()


def _cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    return sum(os.times()[:4])


def _commit() -> str:
    """The commit, and whether what was run is just that."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def _reason(report: pytest.TestReport) -> str:
    assert isinstance(report.longrepr, tuple)
    return str(report.longrepr[2]).removeprefix("Skipped: ")
