"""The table counts what it should, with pytest-xdist as without it."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from tests.faults.outcome import Lost, Wrong, cases

@pytest.mark.fault("kill", "training")
@pytest.mark.parametrize("seed", cases(4, 9))
def test_kill(seed):
    if seed == 1:
        raise Lost("two epochs")
    if seed == 2:
        raise Wrong("another answer")
    if seed == 3:
        pytest.skip("no such system call")

@pytest.mark.fault("fuzz", "lines")
def test_fuzz(record_property):
    record_property("cases", 500)

@pytest.fixture
def unclean():
    yield
    raise OSError("left over")

@pytest.mark.fault("kill", "fetch")
def test_teardown(unclean):
    pass

@pytest.mark.fault("kill", "fetch")
def test_setup(nothing):
    pass

def test_other():
    pass
"""
TABLE = """\
| fault | what it hits | cases | survived | lost | wrong | skipped |
| --- | --- | ---: | ---: | ---: | ---: | ---: |
| fuzz | lines | 500 | 500 | 0 | 0 | 0 |
| kill | fetch | 2 | 0 | 0 | 2 | 0 |
| kill | training | {kills} | {survived} | 1 | 1 | 1 |
| **all** |  | **{cases}** | **{all_survived}** | **1** | **3** | **1** |

Skipped:

- kill, training: no such system call (1)
"""


@pytest.mark.parametrize(("form", "processes"), [("full", []), ("", ["-n", "2"])], ids=["full", "short with xdist"])
def test_every_case_is_counted_once(tmp_path: Path, processes: list[str], form: str) -> None:
    if processes and find_spec("xdist") is None:
        pytest.skip("pytest-xdist is not installed")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = fault(kind, target): a fault\n")
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "SPAMLIT_FAULTS": form}
    options = ["--faults-table", "faults.md", *processes]
    done = subprocess.run([*command, *options], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    kills, survived = (8, 6) if form else (3, 1)
    wanted = TABLE.format(kills=kills, survived=survived, cases=502 + kills, all_survived=500 + survived)
    written = (tmp_path / "faults.md").read_text()
    assert wanted in written
    assert wanted in done.stdout
    assert f"\n{'Full' if form else 'Short'} form, 0:00:" in written
