"""What README, docs and conf tell people to type exists: make targets, overrides that compose, subcommands, options."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from hydra import compose, initialize_config_dir

from spamlit.cli import COMMANDS
from spamlit.cli import main as spamlit
from spamlit.cli.train import CONF

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
BLOCKS = re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
SCRIPTS = "\n".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)).replace("\\\n", "")
LINES = [line.removeprefix("$ ") for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
LINES += re.findall(
    r"(?<!`)`((?:make|python|spamlit|tensorboard) [^`…]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)
)
LINES += [line.removeprefix("srun ") for line in SCRIPTS.splitlines() if line.startswith("srun ")]
HEADS = [line for path in sorted(CONF.rglob("*.yaml")) for line in path.read_text(encoding="utf-8").splitlines()]
HEADS = [line[4:].split("  ")[0] for line in HEADS if line.startswith(("#   python", "#   make"))]
LINES += [line for line in HEADS if line.count(" ") > 2]  # one override alone is what test_configs composes
COMMANDS_SHOWN = [shlex.split(line, comments=True) for line in LINES]


def shown(*start):
    return [command[len(start) :] for command in COMMANDS_SHOWN if tuple(command[: len(start)]) == start]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [arguments[0] for arguments in shown("make")]
    assert {"train", "test"} <= set(targets)
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def one_value(override):
    """The first of the values that a sweep takes; a list, a mapping or no value (`~logger`) stays what it is."""
    key, _, value = override.partition("=")
    return (
        override
        if not value or value.startswith(("[", "{"))
        else f"{key}={re.findall(r'[^(),]+', value)[-1 if '(' in value else 0]}"
    )


OVERRIDES = [line for line in shown("python", "train.py") if "--" not in " ".join(line[:1])]
OVERRIDES += [line[line.index("train.py") + 1 :] for line in shown("torchrun")]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_overrides_compose(overrides):
    if re.search("slurm|submitit", " ".join(overrides)):
        pytest.importorskip("submitit", reason='pip install "spamlit[slurm]"')
    goes_on = any(text.startswith("ckpt=") for text in overrides)  # what it goes on with, it brings itself
    single = [one_value(text) for text in overrides if text != "-m" and not (goes_on and text.startswith("hydra."))]
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
    known = {"make", "python", "spamlit", "tensorboard", "eval", "torchrun"}
    assert {command[0] for command in COMMANDS_SHOWN} <= known
    assert len(shown("python", "train.py")) >= 80
    assert len(shown("torchrun")) == 3
    assert SCRIPTS.count("srun python train.py") == 1


def test_links_and_pictures_are_there():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def rows_of(title, n):
    """The cells of a README table, by the beginning of its head's second cell."""
    lines = (ROOT / "README.md").read_text(encoding="utf-8").split(f"| | {title}")[1].splitlines()[2 : 2 + n]
    return [[cell.strip() for cell in line.strip("|").split("|")[1:]] for line in lines]


def said(figures, system, metric):
    row = figures.query("system == @system and threshold == 'own' and metric == @metric").iloc[0]
    half = f" ± {row['half']:.3f}" if row["seeds"] > 2 else ""
    return f"{row['mean']:.3f}{half}".replace("0.", ".")


def test_the_results_shown_are_those_of_the_pages():
    grouped, balanced, published = (
        pd.read_csv(ROOT / "docs" / f"results{name}.csv") for name in ("", "-balanced", "-published")
    )
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").replace("0.", ".")
    systems = ["tfidf-words-chars", "tfidf-modern", "minilm", "minilm-modern", "default", "best", "collection"]
    for system, cells in zip(systems, rows_of("F1", len(systems)), strict=True):
        assert cells[:2] == [said(grouped, system, metric) for metric in ("f1", "auprc")]
        assert cells[2] == said(grouped, system, "recall_at_fpr").split(" ")[0]
        elsewhere = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| {system} | final |")]
        assert [cell.split(" [")[0] for cell in cells[3:5]] == (
            [elsewhere[0][3], elsewhere[0][6]] if elsewhere else ["", ""]
        )
    systems = ["tfidf-words-chars", "minilm", "default", "best", "collection"]
    for system, cells in zip(systems, rows_of("accuracy", len(systems)), strict=True):
        assert cells[:2] == [said(figures, system, "accuracy") for figures in (balanced, published)]


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("eval")])
def test_shells_are_told_how_to_complete(line):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    told = subprocess.run(
        ["bash", "-c", f"{line}\ncomplete"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert re.search(r"complete .*completion.* (python|spamlit)$", told.stdout, re.MULTILINE), told.stderr


def test_overrides_are_completed():
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "COMP_LINE": "python train.py backbone=gpt2-"}
    told = subprocess.run(
        [sys.executable, "train.py", "--shell-completion", "query=bash"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == ["backbone=gpt2-large", "backbone=gpt2-medium", "backbone=gpt2-xl"], told.stderr
