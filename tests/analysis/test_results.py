"""`spamlit results`: everything on the same splits, nothing twice, and a page that says what the files say."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tests.runs import tiny_run
from tests.synthetic import write_collection

from spamlit.analysis import generalisation, results, results_tables
from spamlit.analysis.markdown import table
from spamlit.analysis.results import Cell, cells, check_extra, run
from spamlit.analysis.results_page import write_results
from spamlit.analysis.results_seen import by_seen, near_in_training, seen_in_training, seen_shares
from spamlit.analysis.results_tables import OWN, VALIDATION, errors, outcomes, pairs
from spamlit.analysis.systems import PROTOCOLS, SYSTEMS, System
from spamlit.cli import main
from spamlit.cli.train import CONF

QUICK = ("majority", "naive-bayes", "tfidf-words")
TINY = System("tiny", "spamlit", "a random model", {"overrides": ("data.batch_size=4",)}, elsewhere=True)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data") / "sms", n_ham=150, n_spam=80, repeats=90)


@pytest.fixture(scope="module")
def finished(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three baselines under all protocols, two seeds each; a tiny run of spamlit under all, one seed."""
    root = tmp_path_factory.mktemp("results")
    arguments = ["--systems", ",".join(QUICK), "--seeds", "0,1"]
    assert command(root, collection, *arguments).exit_code == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "subprocess", SimpleNamespace(run=in_this_process))
        for protocol in PROTOCOLS.values():
            run(Cell(protocol, TINY, 0, root, str(collection)))
    return root


@pytest.fixture
def with_tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (results, sys.modules["spamlit.analysis.results_page"]):
        monkeypatch.setattr(module, "SYSTEMS", {**SYSTEMS, "tiny": TINY})


def command(root: Path, collection: Path, *arguments: str):
    where = ["--folder", str(root), "--to", str(root / "docs"), "--source", str(collection)]
    return CliRunner().invoke(main, ["results", *where, *arguments])


def in_this_process(words: list[str], check: bool) -> "subprocess.CompletedProcess[str]":
    """`python -m spamlit train …` with the tiny backbone."""
    assert words[:4] == [sys.executable, "-m", "spamlit", "train"]
    given = dict(word.split("=", 1) for word in words[4:])
    folder = Path(given.pop("hydra.run.dir"))
    tiny_run(folder, *(f"{key}={value}" for key, value in given.items()))
    return subprocess.CompletedProcess(words, 0)


def test_every_system_is_tested_on_the_same_messages(finished: Path) -> None:
    for protocol in PROTOCOLS:
        keys = []
        for system in (*QUICK, "tiny"):
            table = pd.read_csv(finished / protocol / system / "0" / "predictions.csv")
            parts = {name: rows[["id", "label"]].sort_values("id") for name, rows in table.groupby("split")}
            keys.append({name: rows.to_numpy().tolist() for name, rows in parts.items()})
        assert all(each == keys[0] for each in keys)
        assert ("reserve" in keys[0]) == (protocol in ("balanced", "published"))


def test_the_page_says_what_the_files_say(finished: Path, collection: Path, tmp_path: Path, with_tiny: None) -> None:
    paths = write_results(cells(finished, source=str(collection)), tmp_path)
    page, figures = paths[0].read_text(), pd.read_csv(paths[1])
    row = figures.query("protocol == 'grouped' and system == 'tfidf-words' and threshold == 'own' and metric == 'f1'")
    tests = [
        results_tables.scores(test) for test in outcome(finished, collection, "grouped", "tfidf-words").tests.values()
    ]
    mean = sum(found["f1"] for found in tests) / 2
    assert row["mean"].item() == pytest.approx(mean, abs=1e-6)
    assert row["low"].item() <= mean <= row["high"].item()
    assert f"{mean:.4f}" in page
    for title in ("# Results, repeats grouped, natural", "## Thresholds with a target", "## Speed", "## Errors"):
        assert title in page
    for policy in (VALIDATION, OWN):
        lexical = {name: outcome(finished, collection, "grouped", name, policy) for name in QUICK}
        baseline = results_tables.strongest(lexical)
        assert f"| tiny | {policy} | {baseline.system.name} | 1 |" in page  # compared on the seed that both have
    assert ", validation |" not in page  # both thresholds make the baseline as strong
    pages = "\n".join(path.read_text() for path in paths if path.suffix == ".md")
    for title in ("raw rows", "repeats grouped, ham", "as published"):
        assert f"# Results, {title}" in pages
    for title in ("## What repeats are worth", "## Scores"):
        assert title in pages
    assert "nan" not in pages
    assert "None" not in pages
    lines = pages.splitlines()
    for before, line in pairwise(lines):
        if line.startswith("|") and before.startswith("|"):
            assert line.replace(r"\|", "").count("|") == before.replace(r"\|", "").count("|")


def test_each_protocol_has_a_page_that_is_left_alone_without_results(
    finished: Path, collection: Path, tmp_path: Path, with_tiny: None
) -> None:
    everything = list(cells(finished, source=str(collection)))
    written = {path.name: path.read_text() for path in write_results(everything, tmp_path)}
    stems = ["results", "results-raw", "results-balanced", "results-published"]
    assert list(written) == [f"{stem}.{kind}" for stem in stems for kind in ("md", "csv")]
    assert [stem for stem in stems if f"({stem}.md)" in written["results-raw.md"]] == [stems[0], *stems[2:]]
    again = write_results([cell for cell in everything if cell.protocol.name == "raw"], tmp_path)
    assert [path.name for path in again] == ["results-raw.md", "results-raw.csv"]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == written  # F1 grouped is results.csv's
    together = pd.concat([pd.read_csv(tmp_path / f"{stem}.csv") for stem in stems])
    together.to_csv(tmp_path / "results.csv")  # as it was when it held all protocols
    [page, _] = write_results([cell for cell in everything if cell.protocol.name == "raw"], tmp_path)
    assert page.read_text() == written["results-raw.md"]
    repeats = written["results-raw.md"].split("## What repeats are worth")[1]
    for policy in (VALIDATION, OWN):
        f1 = pd.read_csv(tmp_path / "results.csv").query(
            "protocol == 'grouped' and system == 'tiny' and threshold == @policy and metric == 'f1'"
        )
        [line] = [line for line in repeats.splitlines() if line.startswith(f"| tiny | {policy} |")]
        assert line.split("|")[4].strip() == f"{f1['mean'].item():.4f}"
    published = written["results-published.md"].split("## What repeats are worth")[1]
    accuracy = pd.read_csv(tmp_path / "results-balanced.csv").query(
        "system == 'tiny' and threshold == 'own' and metric == 'accuracy'"
    )
    [line] = [line for line in published.splitlines() if line.startswith("| tiny | own |")]
    assert line.split("|")[4].strip() == f"{accuracy['mean'].item():.4f}"
    assert "## Errors" not in written["results-raw.md"]
    [alone, _] = write_results([cell for cell in everything if cell.protocol.name == "raw"], tmp_path / "alone")
    assert "(results" not in alone.read_text().replace("(results-raw.csv", "")


@pytest.mark.parametrize(
    "content",
    ["", "name,score\nalex,3\n", "\0\xff", "protocol,system,threshold,metric,mean\ngrouped,alex,own,f1,three\n"],
)
def test_a_foreign_file_in_the_place_of_the_grouped_figures_is_named(
    content: str, finished: Path, collection: Path, tmp_path: Path
) -> None:
    (tmp_path / "results.csv").write_text(content, encoding="latin-1")
    raw = [cell for cell in cells(finished, source=str(collection)) if cell.protocol.name == "raw"]
    with pytest.raises(ValueError, match=r"results\.csv is damaged, or not written by spamlit results"):
        write_results(raw, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
    assert (tmp_path / "results.csv").read_text(encoding="latin-1") == content


def test_what_is_asked_elsewhere_is_on_the_page(finished: Path, collection: Path, tmp_path: Path, with_tiny) -> None:
    page = write_results(cells(finished, source=str(collection)), tmp_path)[0].read_text()
    said = json.loads((finished / "grouped" / "tiny" / "0" / generalisation.FILE).read_text())
    recall, fpr = (said["challenge"]["dev"][name] for name in ("recall", "fpr"))
    assert f"| tiny | dev | 1 | {(1 + recall - fpr) / 2:.3f} | {recall:.3f} | {fpr:.3f} |" in page
    lost = 100 * (said["disguised"]["leet"]["recall_before"] - said["disguised"]["leet"]["recall_after"])
    leet = f"| {100 * said['disguised']['leet']['changed']:.0f} | {lost:.2f} |"
    assert f"| leet {leet} {100 * said['disguised']['leet']['fpr_after']:.2f} |" in page
    [part] = [
        line
        for line in page.splitlines()
        if line.startswith("| tiny | 0.") and f" {(1 + recall - fpr) / 2:.3f} |" in line
    ]
    assert f" {100 * said['disguised']['mean']['fpr_after']:.2f} |" in part
    assert page.count("| tiny | precision 0.99 |") == page.count("| tiny | fpr 0.005 |") == 1
    few = next(line for line in page.splitlines() if line.startswith("| tiny | precision 0.99 |"))
    assert few.endswith("| 0 of 1 |")  # of some twenty messages none says .99 for certain
    assert not (finished / "raw" / "tiny" / "0" / generalisation.FILE).exists()


def outcome(root: Path, collection: Path, protocol: str, system: str, policy: str = OWN):
    chosen = cells(root, protocols=[protocol], systems=[system], source=str(collection))
    return outcomes(chosen, policy)[protocol][system]


def test_what_has_finished_is_not_made_again(finished: Path, collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(*_: object) -> None:
        raise ValueError("trained again")

    monkeypatch.setattr(results, "fit", again)
    listed = command(
        finished, collection, "--systems", "naive-bayes", "--protocols", "raw", "--list"
    ).output.splitlines()
    assert [line.split()[0] for line in listed] == ["done", "done", "-", "-", "-"]
    assert command(finished, collection, "--systems", ",".join(QUICK), "--seeds", "0,1").exit_code == 0
    (finished / "raw" / "majority" / "1" / "metrics.json").rename(finished / "kept")
    assert "trained again" in command(finished, collection, "--systems", "majority", "--seeds", "1").output
    assert command(finished, collection, "--report").exit_code == 0
    (finished / "kept").rename(finished / "raw" / "majority" / "1" / "metrics.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--systems", "svm"], "--systems svm: choose from majority"), (["--seeds", "7"], "--seeds 7: choose from 0, 1")],
)
def test_what_is_not_in_the_tables_is_refused(
    finished: Path, collection: Path, arguments: list[str], said: str
) -> None:
    done = command(finished, collection, *arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_what_an_earlier_version_measured_is_named(
    finished: Path, collection: Path, tmp_path: Path, with_tiny: None
) -> None:
    path = finished / "grouped" / "tiny" / "0" / generalisation.FILE
    said = path.read_text()
    path.write_text(json.dumps({key: value for key, value in json.loads(said).items() if key != "changed_dev"}))
    with pytest.raises(ValueError, match=r"generalisation\.json has no changed_dev: remove it"):
        write_results(cells(finished, source=str(collection)), tmp_path)
    path.write_text(said)


def test_without_results_there_is_no_page(tmp_path: Path, collection: Path) -> None:
    done = command(tmp_path, collection, "--report")
    assert done.exit_code == 2
    assert "no finished result" in done.output


def test_another_run_in_the_folder_is_not_taken_for_ours(finished: Path, collection: Path) -> None:
    other = System("tiny", "spamlit", "", {"overrides": ("data.batch_size=8",)})
    with pytest.raises(ValueError, match=r"data\.batch_size=4.*not data\.batch_size=8"):
        _ = Cell(PROTOCOLS["raw"], other, 0, finished, str(collection)).done


def test_a_run_of_a_recipe_that_has_changed_since_is_not_taken_for_ours(tmp_path: Path, collection: Path) -> None:
    cell, other = cells(tmp_path, protocols=["grouped"], systems=["best"], seeds=[0, 1], source=str(collection))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=cell.overrides)
    stored = cell.folder / ".hydra" / "config.yaml"
    stored.parent.mkdir(parents=True)
    del cfg.model.lora.rank  # a setting that came later, and the recipe leaves alone
    cfg.ckpt, cfg.threads, cfg.data.prefix_limit_gb = str(cell.folder), 1, 5  # of a run that went on
    OmegaConf.save(cfg, stored)
    assert "another recipe" not in command(tmp_path, collection, "--report").stderr
    cfg.model.head.lean, cfg.evaluate = 7, "best"
    del cfg.model.head.joint  # one that the recipe sets
    OmegaConf.save(cfg, stored)
    (other.folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(cfg, other.folder / ".hydra" / "config.yaml")
    said = command(tmp_path, collection, "--report")
    assert said.exit_code == 2
    assert (
        f"{cell.folder} (evaluate=best, now last, model.head.joint=0.0, now 0.2, model.head.lean=7, now 2)"
        in said.stderr
    )
    assert f"{other.folder} (" in said.stderr
    stored.write_text("[model]")
    assert f"{stored} is damaged" in command(tmp_path, collection, "--report").stderr


def test_a_baseline_is_asked_elsewhere_and_trained_on_more(tmp_path: Path, collection: Path) -> None:
    alone = System("words", "naive-bayes", "words", elsewhere=True)
    more = System("more", "naive-bayes", "words, and modern ones", elsewhere=True, extra=("modern",))
    recalls = []
    for system in (alone, more):
        cell = Cell(PROTOCOLS["grouped"], system, 0, tmp_path, str(collection))
        run(cell)
        assert cell.done
        [said] = generalisation.read([cell.folder])
        recalls.append(said["challenge"]["dev"]["balanced_accuracy"])
        (cell.folder / generalisation.FILE).unlink()
        assert not cell.done
        assert not Cell(PROTOCOLS["raw"], system, 0, tmp_path, str(collection)).measurements
    assert recalls[1] > recalls[0] + 0.1
    ours, theirs = (
        pd.read_csv(tmp_path / "grouped" / name / "0" / "predictions.csv").groupby("split")["id"].agg(set)
        for name in ("words", "more")
    )
    assert ours["test"] == theirs["test"]
    assert len(theirs["train"]) > len(ours["train"]) + 10_000


def test_baselines_of_another_source_are_not_taken_for_ours(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"naive-bayes/0 is of .*sms, not of .*mine\.csv: choose another --folder"):
        _ = Cell(PROTOCOLS["raw"], SYSTEMS["naive-bayes"], 0, finished, str(tmp_path / "mine.csv")).done


@pytest.mark.parametrize(
    ("seed", "changed", "named"),
    [
        ({"optimizer.lr": 1, "seed": 1}, {}, None),
        ({"optimizer.lr": 1, "seed": 1, "data.score_train": False}, {}, None),
        ({"optimizer.lr": 2, "seed": 1}, {}, "optimizer.lr"),
        ({"optimizer.lr": 1, "seed": 1, "data.obfuscate": 1}, {"extra": {"modern": "b"}}, "data.obfuscate, extra"),
    ],
)
def test_seeds_of_two_recipes_are_not_averaged(seed: dict, changed: dict, named: str | None) -> None:
    records = [{"hyperparameters": {"optimizer.lr": 1, "seed": 0}, "data": {"sha256": "a", "extra": {"modern": "a"}}}]
    records.append({"hyperparameters": seed, "data": records[0]["data"] | changed})
    found = [
        SimpleNamespace(
            done=True,
            protocol=PROTOCOLS["raw"],
            system=TINY,
            seed=number,
            folder=f"raw/tiny/{number}",
            record=lambda record=record: record,
        )
        for number, record in enumerate(records)
    ]
    if named is None:
        assert list(outcomes(found, OWN)["raw"]["tiny"].cells) == [0, 1]
        return
    with pytest.raises(ValueError, match=rf"raw/tiny/1 was made otherwise than seed 0 \({named}\): move one away"):
        outcomes(found, OWN)


def test_a_stopped_run_goes_on_and_a_failed_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(PROTOCOLS["grouped"], TINY, 2, tmp_path)
    asked: list[list[str]] = []

    def fails(words: list[str], check: bool) -> "subprocess.CompletedProcess[str]":
        asked.append(words[4:])
        return subprocess.CompletedProcess(words, 2)

    monkeypatch.setattr(results, "subprocess", SimpleNamespace(run=fails))
    with pytest.raises(ValueError, match=r"grouped/tiny/2: spamlit train .* ended with status 2"):
        run(cell)
    (cell.folder / "checkpoints").mkdir(parents=True)
    (cell.folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ValueError, match=r"ckpt="):
        run(cell)
    shared = ["data.split=grouped", "data.balance=none", "seed=2", "report=false"]
    assert asked == [["data.batch_size=4", *shared, f"hydra.run.dir={cell.folder}"], [f"ckpt={cell.folder}"]]


def written(root: Path, collection: Path, protocol: str, right, system: str = "naive-bayes") -> Cell:
    """A system whose predictions are given: right(test frame, training groups) says which are right."""
    cell = Cell(PROTOCOLS[protocol], SYSTEMS[system], 0, root, str(collection))
    splits = cell.protocol.splits(0, str(collection))
    frames = []
    for name, frame in splits.frames().items():
        correct = right(frame, set(splits.train["group"])) if name == "test" else pd.Series(True, frame.index)
        frames.append(frame.assign(split=name, probability=((frame["label"] == "spam") == correct) * 0.8 + 0.1))
    cell.folder.mkdir(parents=True)
    pd.concat(frames)[["id", "label", "split", "probability"]].to_csv(cell.folder / "predictions.csv", index=False)
    (cell.folder / "run.json").write_text(json.dumps({"source": str(collection)}))
    (cell.folder / "metrics.json").write_text('{"train_seconds": 1, "messages_per_second": 1}')
    return cell


def test_the_pretrained_ones_are_compared_with_each_other(tmp_path: Path, collection: Path) -> None:
    right = {"naive-bayes": 0.5, "minilm": 0.9, "distilbert": 0.8}  # the share of each label that it gets right
    made = [
        written(tmp_path, collection, "grouped", lambda test, _, share=share: by_label(test) < share, system)
        for system, share in right.items()
    ]
    found = outcomes(made, OWN)["grouped"]
    without = written(tmp_path, collection, "grouped", lambda test, _: by_label(test) < 0.7, "prompt")
    found["best-alone"] = outcomes([without], OWN)["grouped"]["prompt"]
    [pair] = pairs(found).to_dict("records")
    assert (pair["system"], pair["other"], pair["seeds"]) == ("minilm", "distilbert", 1)
    better, worse = (results_tables.scores(found[name].tests[0])["f1"] for name in ("minilm", "distilbert"))
    assert pair["f1 mean"] == pytest.approx(better - worse)
    assert (pair["ours_only"] > 0, pair["theirs_only"]) == (True, 0)
    page = write_results(made, tmp_path / "docs")[0].read_text()
    assert f"| minilm | own | distilbert | 1 | {better - worse:+.4f} |" in page.split("each two of the fine-tuned")[1]


def test_a_baseline_is_met_at_its_stronger_threshold_too(tmp_path: Path, collection: Path) -> None:
    weak, other = (
        written(tmp_path, collection, "grouped", lambda test, _: by_label(test) < 0.9, name)
        for name in ("naive-bayes", "minilm")
    )
    rows = weak.predictions()
    rows.assign(probability=rows["probability"] * 0.5).to_csv(weak.folder / "predictions.csv", index=False)
    page = write_results([weak, other], tmp_path / "docs")[0].read_text()
    assert "| minilm | own | naive-bayes | 1 |" in page
    assert "| minilm | own | naive-bayes, validation | 1 | +0.0000 |" in page


def by_label(test: pd.DataFrame) -> pd.Series:
    """How far down among its label's messages each one stands, from 0 to below 1."""
    each = test.groupby("label")["id"]
    return each.cumcount() / each.transform("size")


def test_the_leak_is_told_from_the_rest(tmp_path: Path, collection: Path) -> None:
    """A system that knows training by heart and nothing else."""
    raw = written(tmp_path, collection, "raw", lambda test, known: test["group"].isin(known))
    found = outcomes([raw], VALIDATION)["raw"]
    seen = seen_in_training(found)
    row = by_seen(found, seen).iloc[0]
    assert (row["seen recall"], row["unseen recall"], row["unseen metric"]) == (1, 0, 0)
    splits = raw.protocol.splits(0, str(collection))
    known = splits.test["group"].isin(splits.train["group"])
    shares = seen_shares(found, seen)
    assert shares["messages"] == pytest.approx(known.mean())
    assert shares["spam"] == pytest.approx(known[splits.test["label"] == "spam"].mean())
    assert shares["ham"] == pytest.approx(known[splits.test["label"] == "ham"].mean())
    assert 0 < row["metric"] < 1
    accuracy = by_seen(found, seen, "accuracy").iloc[0]
    assert accuracy["unseen metric"] == 0 < accuracy["metric"] < 1


def test_near_repeats_are_found_where_grouping_leaves_them(tmp_path: Path) -> None:
    """Half of the spam is one campaign, whose texts differ by a word; the rest is unlike anything."""
    words = [f"{a}{b}{c}" for a in "abcdefghij" for b in "klmnopqrst" for c in "uvwxyz"]
    texts = [" ".join(words[n * 4 : n * 4 + 4]) for n in range(140)]
    campaign = [f"free entry in our weekly draw of {word} call 0906 now to claim it" for word in words[-40:]]
    rows = [*(f"spam\t{text}" for text in campaign + texts[:40]), *(f"ham\t{text}" for text in texts[40:])]
    (tmp_path / "sms").write_text("\n".join(rows) + "\n")

    def right(test: pd.DataFrame, _: set[int]) -> pd.Series:
        return (test["label"] == "ham") | test["text"].str.contains("weekly draw")

    cell = written(tmp_path, tmp_path / "sms", "grouped", right)
    found = outcomes([cell], OWN)["grouped"]
    test = cell.protocol.splits(0, cell.source).test
    expected = test["text"].str.contains("weekly draw")
    assert near_in_training(found) == {0: set(test.loc[expected, "id"])}
    page = write_results([cell], tmp_path / "docs")[0].read_text()
    share = 100 * expected[test["label"] == "spam"].mean()
    assert f"{share:.1f} % of a test split's spam\n(0.0 % of its ham) is still worded like a training message" in page
    assert "| naive-bayes | own | 1.0000 | 0.0000 |" in page


def test_the_messages_that_all_get_wrong_come_first(tmp_path: Path, collection: Path) -> None:
    cell = written(tmp_path, collection, "grouped", lambda test, _: pd.Series(range(len(test)), test.index) != 3)
    splits = cell.protocol.splits(0, str(collection))
    [row] = errors(outcomes([cell], OWN)["grouped"]).to_dict("records")
    assert (row["text"], row["wrong"], row["asked"]) == (splits.test["text"].iloc[3], 1, 1)


def test_a_missing_package_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "find_spec", lambda name: None)
    check_extra([TINY, SYSTEMS["prompt"]])
    with pytest.raises(ValueError, match=r"minilm needs transformers.*spamlit\[baselines\]"):
        check_extra([SYSTEMS["minilm"]])


def test_no_message_leaves_its_cell() -> None:
    shown = table(["text"], [["a|b <b>*c*</b>\n`d` [e](f)"]]).splitlines()
    assert len(shown) == 3
    assert shown[-1].count("|") - shown[-1].count(r"\|") == 2
    assert "<" not in shown[-1].replace(r"\<", "")
