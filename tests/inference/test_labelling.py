"""Files: streamed, whole or not there, found, resumed; rows between the Predictor's calls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.inference.stand_in import StandIn, Untracked

from spamlit.assets import atomic_write
from spamlit.inference import labelling, predictor, tables
from spamlit.inference.labelling import Job, Options, find_jobs, find_sources, label_file, label_files, tell_kind
from spamlit.inference.tables import TableError

OPTIONS = Options("no run")
SLEEPER = """
import sys, time
from pathlib import Path
from stand_in import StandIn, Untracked
from spamlit.inference import lines
from spamlit.inference.labelling import Options, label_file

class Sleeper(StandIn):
    def classify(self, texts, **options):
        if len(self.asked) == 2:
            print("in the middle", flush=True)
            time.sleep(60)
        return super().classify(texts, **options)

lines.CHUNK_ROWS = 10
label_file(Path("mine.csv"), Path("out.csv"), "csv", Options("no run"), Sleeper, Untracked())
"""


def test_chunks_are_what_the_predictor_computes_together() -> None:
    assert tables.CHUNK_ROWS == predictor.TOGETHER


def test_killed_in_the_middle_there_is_no_output_and_a_rerun_completes(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("text\n" + "win\n" * 1000)
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{SLEEPER}"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "in the middle\n"
    process.kill()
    process.communicate()
    assert not (tmp_path / "out.csv").exists()
    track = Untracked()
    counts = label_file(tmp_path / "mine.csv", tmp_path / "out.csv", "csv", OPTIONS, StandIn, track)
    assert counts == {"messages": 1000, "spam": 1000}
    assert track.rows == track.total == 1000
    assert (tmp_path / "out.csv").read_text().count("spam") == 1000


def test_a_bad_record_is_found_before_the_model_is_loaded_and_spoils_no_output(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"text": "hi"}\n' * 3 + "{\n")
    (tmp_path / "out.jsonl").write_text("as before")
    with pytest.raises(TableError, match="line 4"):
        label_file(
            tmp_path / "mine.jsonl",
            tmp_path / "out.jsonl",
            "jsonl",
            OPTIONS,
            lambda: pytest.fail("loaded"),
            Untracked(),
        )
    assert (tmp_path / "out.jsonl").read_text() == "as before"
    assert len(list(tmp_path.iterdir())) == 2


def test_the_model_is_loaded_once_and_a_bad_file_does_not_stop_the_others(tmp_path: Path) -> None:
    for name, content in {"a.csv": "text\nwin\n", "b.csv": "message\nhi\n", "c.csv": "text\nhi\n"}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "out").mkdir()
    jobs = find_jobs(find_sources([str(tmp_path / "*.csv")]), tmp_path / "out", None)
    made: list[StandIn] = []
    results = dict(label_files(jobs, OPTIONS, lambda: made.append(StandIn()) or made[0], Untracked()))  # type: ignore[func-returns-value]
    assert [results[job] if isinstance(results[job], str) else dict(results[job]) for job in jobs] == [  # type: ignore[arg-type]
        {"messages": 1, "spam": 1},
        f"{tmp_path}/b.csv, line 1: no columns 'text'. Name one with --column; there are: message",
        {"messages": 1, "ham": 1},
    ]
    assert len(made) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.csv", "c.csv"]


def test_a_file_is_done_until_its_source_is_newer(tmp_path: Path) -> None:
    job = Job(tmp_path / "a.csv", tmp_path / "out.csv", "csv")
    job.source.write_text("text\n")
    assert not job.done
    job.target.write_text("text\n")
    os.utime(job.source, (1000, 1000))
    assert job.done
    os.utime(job.target, (999, 999))
    assert not job.done


def test_files_are_found_by_name_and_by_glob(tmp_path: Path) -> None:
    for name in ("x/a.csv", "x/b.tsv", "y/a.csv", "z [1].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    x, y = tmp_path / "x", tmp_path / "y"
    assert find_sources([f"{tmp_path}/x/*", f"{x}/a.csv"]) == [x / "a.csv", x / "b.tsv"]
    assert find_sources([f"{tmp_path}/z [1].csv"]) == [tmp_path / "z [1].csv"]
    assert [job.kind for job in find_jobs(find_sources([f"{x}/*"]), tmp_path / "out", None)] == ["csv", "tsv"]
    with pytest.raises(TableError, match="no such file, and no file's name matches"):
        find_sources([f"{x}/*.jsonl"])
    with pytest.raises(TableError, match="is a folder; name files"):
        find_sources([str(x)])
    with pytest.raises(TableError, match=r"would both become out/a.csv"):
        find_jobs([x / "a.csv", y / "a.csv"], Path("out"), None)
    with pytest.raises(TableError, match=r"lies in .* itself"):
        find_jobs([x / "a.csv"], x, None)
    with pytest.raises(TableError, match=r"mine.dat: the name does not say the format"):
        tell_kind(None, Path("mine.dat"))
    assert tell_kind("text", Path("mine.csv")) == "text"


def test_another_classifier_or_option_does_not_go_on_in_a_folder(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    (bundle / "model.safetensors").touch()
    options = Options(str(bundle), unsure=(0.2, 0.8), threads=1)
    labelling.claim_folder(tmp_path / "out", options)
    labelling.claim_folder(tmp_path / "out", Options(f"{bundle}/../bundle", unsure=(0.2, 0.8), threads=2))
    with pytest.raises(TableError, match="labelled with another unsure"):
        labelling.claim_folder(tmp_path / "out", Options(str(bundle)))
    with atomic_write(bundle / "config.json") as path:
        path.write_text("{ }")
    with pytest.raises(TableError, match=r"labelled with another bundle. Choose another folder"):
        labelling.claim_folder(tmp_path / "out", options)
