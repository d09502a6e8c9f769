"""What is cheap stays cheap: the package and the command's help import neither torch nor pandas."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import spamlit
from spamlit.cli import COMMANDS

HEAVY = "{'torch', 'pandas', 'numpy', 'lightning', 'hydra', 'transformers'}"


def heavy_modules_after(statement: str) -> str:
    code = f"{statement}\nimport sys\nprint('heavy:', sorted({HEAVY} & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import spamlit",
        "import spamlit.cli",
        "import spamlit.inference.labelling",
        "from click.testing import CliRunner; from spamlit.cli import main; CliRunner().invoke(main, ['--help'])",
    ],
)
def test_imports_stay_light(statement: str) -> None:
    assert "heavy: []" in heavy_modules_after(statement)


def test_help_lists_every_subcommand() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "spamlit", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_version_is_the_distribution_s() -> None:
    assert spamlit.__version__ == version("spamlit")


def test_unknown_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="Predicter"):
        _ = spamlit.Predicter


def test_predictor_is_reached_through_the_package() -> None:
    from spamlit.inference.predictor import Predictor

    assert spamlit.Predictor is Predictor
