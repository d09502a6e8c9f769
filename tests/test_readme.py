"""What README tells people to type exists: make targets, overrides that compose, subcommands with their options."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from hydra import compose, initialize_config_dir

from spamlit.cli import COMMANDS
from spamlit.cli import main as spamlit
from spamlit.cli.train import CONF

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
LINES = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
COMMANDS_SHOWN = [shlex.split(line, comments=True) for line in LINES]


def shown(*start):
    return [command[len(start) :] for command in COMMANDS_SHOWN if tuple(command[: len(start)]) == start]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [arguments[0] for arguments in shown("make")]
    assert {"train", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("overrides", shown("python", "train.py"), ids=" ".join)
def test_overrides_compose(overrides):
    single = overrides  # of a sweep, its first job
    if "-m" in overrides:
        single = [text.split(",")[0] if "=" in text else text for text in overrides if text != "-m"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*single, "run_dir=none"])
    assert cfg.model.trainable


@pytest.mark.parametrize("arguments", shown("spamlit"), ids=" ".join)
def test_subcommands_and_options_exist(arguments):
    assert arguments[0] in COMMANDS
    said = CliRunner().invoke(spamlit, [arguments[0], "--help"])
    assert said.exit_code == 0
    for option in (text for text in arguments[1:] if text.startswith("--")):
        assert option in said.output


def test_every_command_in_the_readme_is_looked_at():
    known = {"make", "python", "spamlit", "tensorboard"}
    assert {command[0] for command in COMMANDS_SHOWN} <= known
    assert len(shown("python", "train.py")) >= 7
