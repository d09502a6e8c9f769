"""Runs side by side: all of them, the best on validation first, with what they differ in."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from spamlit.analysis.compare import rich_groups, rich_table, runs_table, seed_groups, write_table
from spamlit.cli import main


def finished(folder: Path, f1: float, loss: float = 0.5, overrides: tuple[str, ...] = (), seconds: float | None = 2.0):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    metrics = {"val/f1": f1, "val/loss": loss, "test/f1": f1 - 0.01, "test/mcc": 0.5}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if seconds is not None:
        (folder / "run.json").write_text(json.dumps({"timing": {"total": seconds}}))
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three jobs and one that did not finish."""
    folder = tmp_path / "sweep"
    for n, (f1, loss, trainable) in enumerate([(0.9, 0.4, "head"), (0.95, 0.3, "last_block"), (0.95, 0.2, "all")]):
        finished(folder / str(n), f1, loss, (f"model.trainable={trainable}", "seed=1", "+experiment=lesson"))
    (folder / "3" / ".hydra").mkdir(parents=True)
    return folder


def test_the_best_on_validation_comes_first_and_a_tie_goes_to_the_lower_loss(sweep: Path) -> None:
    table = runs_table([sweep])
    assert table["model.trainable"].tolist() == ["all", "last_block", "head"]
    assert table["run"].tolist() == [str(sweep / n) for n in "210"]
    assert table["seconds"].tolist() == [2.0] * 3


def test_only_what_differs_is_a_column(sweep: Path) -> None:
    table = runs_table([sweep])
    assert not {"seed", "experiment"} & set(table.columns)
    finished(sweep / "4", 0.1, overrides=("model.trainable=all", "seed=2"))
    assert {"seed", "experiment"} <= set(runs_table([sweep]).columns)


def test_a_single_run_keeps_its_overrides(sweep: Path) -> None:
    assert runs_table([sweep / "0"])["experiment"].tolist() == ["lesson"]


def test_a_run_is_counted_once(sweep: Path) -> None:
    assert len(runs_table([sweep, sweep / "1", sweep])) == 3


def test_no_finished_run_is_an_error_that_names_the_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"no finished run below {tmp_path}"):
        runs_table([tmp_path])


def test_runs_of_elsewhere_without_record_or_overrides(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run", 0.9, seconds=None)
    (folder / ".hydra" / "overrides.yaml").unlink()
    table = runs_table([tmp_path])
    assert pd.isna(table["seconds"][0])
    assert "nan" not in shown(table)


def shown(table: pd.DataFrame) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rich_table(table))
    return capture.get()


def test_the_terminal_shows_the_choice_and_the_main_figures(sweep: Path) -> None:
    text = shown(runs_table([sweep]))
    assert all(word in text for word in ("model.trainable", "last_block", "val/f1", "0.9500", "test/f1", "2.0000"))
    assert "test/mcc" not in text


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Two choices, three seeds each; all of the model is 0.02, 0.03 and 0.04 better than the head."""
    folder = tmp_path / "seeds"
    for n, (trainable, seed) in enumerate((trainable, seed) for trainable in ("head", "all") for seed in (1, 2, 3)):
        f1 = 0.80 + 0.05 * (seed - 1) + (trainable == "all") * (0.01 + 0.01 * seed)
        finished(folder / str(n), f1, 0.5, (f"model.trainable={trainable}", f"seed={seed}", "threads=1"))
    return folder


def test_means_over_seeds_and_paired_differences_to_the_best(seeds: Path) -> None:
    groups = seed_groups(runs_table([seeds]))
    assert groups is not None
    assert groups["model.trainable"].tolist() == ["all", "head"]
    assert groups["runs"].tolist() == [3, 3]
    assert groups["val/f1"].tolist() == pytest.approx([0.88, 0.85])
    assert groups["val/f1 ±"][1] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-4)
    assert pd.isna(groups["val/f1 Δ"][0])
    assert groups["val/f1 Δ"][1] == pytest.approx(-0.03)
    assert groups["val/f1 Δ±"][1] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)  # of the pairs: far narrower
    assert "threads" not in groups


def test_the_baseline_can_be_chosen(seeds: Path) -> None:
    groups = seed_groups(runs_table([seeds]), ["model.trainable=head"])
    assert groups is not None
    assert groups["val/f1 Δ"][0] == pytest.approx(0.03)
    with pytest.raises(ValueError, match=r"model.trainable=none fits 0 of the groups.*model.trainable=all; model"):
        seed_groups(runs_table([seeds]), ["model.trainable=none"])


def test_only_seeds_make_one_group(seeds: Path) -> None:
    groups = seed_groups(runs_table([seeds / n for n in "012"]))
    assert groups is not None
    assert groups["runs"].tolist() == [3]
    assert groups["val/f1"][0] == pytest.approx(0.85)


def test_a_figure_that_some_runs_lack(seeds: Path) -> None:
    for n, value in (("0", 0.1), ("1", 0.3)):  # two of the head's, none of the whole model's
        metrics = json.loads((seeds / n / "metrics.json").read_text()) | {"reserve/fpr": value}
        (seeds / n / "metrics.json").write_text(json.dumps(metrics))
    groups = seed_groups(runs_table([seeds]))
    assert groups is not None
    assert groups["reserve/fpr"].tolist() == pytest.approx([float("nan"), 0.2], nan_ok=True)
    assert pd.isna(groups["reserve/fpr Δ"]).all()
    assert "nan" not in shown_groups(groups)


def test_without_several_seeds_there_are_no_groups(sweep: Path, seeds: Path) -> None:
    assert seed_groups(runs_table([sweep])) is None
    assert seed_groups(runs_table([seeds / "0", seeds / "4"])) is None


def test_the_command_shows_the_groups(seeds: Path) -> None:
    done = CliRunner().invoke(main, ["compare", str(seeds), "--baseline", "model.trainable=head"])
    assert done.exit_code == 0, done.output
    written = pd.read_csv(seeds / "compare-groups.csv")
    assert written["test/f1 Δ"][0] == pytest.approx(0.03)
    assert "+0.0300 ± 0.0248" in shown_groups(seed_groups(runs_table([seeds]), ["model.trainable=head"]))
    assert CliRunner().invoke(main, ["compare", str(seeds), "--baseline", "seed=9"]).exit_code == 2


def shown_groups(groups: pd.DataFrame | None) -> str:
    assert groups is not None
    console = Console(width=200)
    with console.capture() as capture:
        console.print(rich_groups(groups))
    return capture.get()


def test_the_csv_holds_everything(sweep: Path, tmp_path: Path) -> None:
    write_table(runs_table([sweep]), tmp_path / "out.csv")
    written = pd.read_csv(tmp_path / "out.csv")
    assert {"run", "model.trainable", "val/f1", "val/loss", "test/f1", "test/mcc", "seconds"} == set(written.columns)
    assert len(written) == 3


def test_the_command(sweep: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["compare", str(sweep)])
    assert done.exit_code == 0, done.output
    assert f"3 runs, written to {sweep / 'compare.csv'}" in done.output
    assert CliRunner().invoke(main, ["compare", str(sweep), "--csv", str(tmp_path / "other.csv")]).exit_code == 0
    assert pd.read_csv(tmp_path / "other.csv").equals(pd.read_csv(sweep / "compare.csv"))
    nothing = CliRunner().invoke(main, ["compare", str(sweep / "3")])
    assert nothing.exit_code == 2
    assert "no finished run" in nothing.output
