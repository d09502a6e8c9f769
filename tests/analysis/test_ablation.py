"""The ablation table beside the published figures."""

import json
import math

import pytest
from omegaconf import OmegaConf

from spamlit.analysis.ablation import ablation_table, changes, markdown, write_ablation
from spamlit.cli.train import CONF

EXPERIMENTS = CONF / "experiment"
PUBLISHED = {"train": 99.42, "val": 98.66, "test": 98.33, "minutes": 0.3}


def make_run(folder, experiment, accuracy, *overrides, backbone="smollm2-135m"):
    (folder / ".hydra").mkdir(parents=True)
    choices = {"hydra": {"runtime": {"choices": {"experiment": experiment, "backbone": backbone}}}}
    OmegaConf.save(OmegaConf.create(choices), folder / ".hydra" / "hydra.yaml")
    OmegaConf.save(OmegaConf.create({"published": PUBLISHED}), folder / ".hydra" / "config.yaml")
    figures = {f"{split}/accuracy": accuracy for split in ("train", "val", "test")} | {"test/f1": accuracy - 0.01}
    (folder / "metrics.json").write_text(json.dumps(figures))
    fit = 60.0 if folder.name == "16-1" else 0.0  # another run found the frozen blocks' output
    given = [f"experiment={experiment}", "sweep=ablation", f"backbone={backbone}", f"seed={folder.name}", *overrides]
    (folder / "run.json").write_text(json.dumps({"timing": {"prefix": 30.0, "fit": fit}, "overrides": given}))


@pytest.fixture
def sweep(tmp_path):
    for seed, accuracy in enumerate((0.96, 0.98)):
        make_run(tmp_path / f"16-{seed}", "ablation/row16", accuracy)
    make_run(tmp_path / "2", "ablation/row02", 0.75)
    make_run(tmp_path / "other", "challenge", 0.99)
    (tmp_path / "unfinished" / ".hydra").mkdir(parents=True)
    return tmp_path


def test_rows_are_averaged_over_seeds_beside_the_published_figures(sweep):
    table = ablation_table(sweep, EXPERIMENTS)
    assert table["row"].tolist() == [2, 16]
    assert table["runs"].tolist() == [1, 2]
    first, second = table.to_dict("records")
    assert math.isnan(first["test ±"])
    assert second["test"] == pytest.approx(97.0)
    assert second["test ±"] == pytest.approx(12.706, abs=1e-3)  # Student's t of one degree of freedom, times 1
    assert second["test F1"] == pytest.approx(96.0)
    assert second["minutes"] == pytest.approx(1.5)
    assert second["published test"] == 98.33


def test_files_are_written(sweep):
    table = ablation_table(sweep, EXPERIMENTS)
    csv, text, picture = write_ablation(table, sweep)
    assert csv.read_text().startswith("row,changes,published train")
    assert text.read_text() == markdown(table)
    assert "| 16 | experiment=lesson-nonpad | 99.42 | 98.66 | 98.33 | 0.30 | 2 | 97.00 ± 12.71 |" in markdown(table)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "| runs of smollm2-135m | train |" in markdown(table).splitlines()[0]


def test_what_a_run_changed_besides_is_said_and_not_averaged_in(sweep):
    for seed in (3, 4):
        make_run(sweep / str(seed), "ablation/row13", 0.9, "trainer.max_epochs=2", "data.max_length=512", "threads=1")
    make_run(sweep / "5", "ablation/row13", 0.8)
    make_run(sweep / "6", "ablation/row09", 0.8, backbone="gpt2-large")
    make_run(sweep / "7", "ablation/row09", 0.8, backbone="gpt2-xl")
    table = ablation_table(sweep, EXPERIMENTS)
    said = dict(zip(table["changes"], table["runs"], strict=True))
    assert said["data.max_length=context"] == 1
    assert said["data.max_length=context (here data.max_length=512, trainer.max_epochs=2)"] == 2
    assert said["backbone=gpt2-xl, model.trainable=all"] == 1
    assert said["backbone=gpt2-xl, model.trainable=all (here backbone=gpt2-large)"] == 1
    assert "| runs of smollm2-135m, " in markdown(table)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("01", "nothing: the lesson"),
        ("05", "model.trainable=all"),
        ("06", "backbone=gpt2-medium"),
        ("12", "experiment=ablation/row11, backbone=gpt2-xl, model.lora.alpha=8"),
        ("14", "data.batch_size=1, data.padding=longest, data.max_length=context, model.pooling=last_nonpad"),
        ("16", "experiment=lesson-nonpad"),
    ],
)
def test_a_row_says_what_it_changes(row, said):
    assert changes(EXPERIMENTS / "ablation" / f"row{row}.yaml") == said


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="make ablation"):
        ablation_table(tmp_path, EXPERIMENTS)
