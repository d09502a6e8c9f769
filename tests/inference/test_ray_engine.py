"""The Ray engine writes what the local one writes, byte for byte."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.inference.stand_in import Untracked
from tests.runs import tiny_run
from tests.synthetic import SPAM, messages

from spamlit.inference.labelling import Options, find_jobs, label_files
from spamlit.inference.tables import TableError

ray = pytest.importorskip("ray", reason='pip install "spamlit[ray]"')


@pytest.mark.fault("numerics", "engines")
@pytest.mark.slow
def test_two_workers_write_the_bytes_of_the_local_engine(tmp_path: Path) -> None:
    from spamlit.inference import ray_engine

    run = tiny_run(tmp_path / "run", "data.reserve=false").folder
    texts = messages(SPAM, random.Random(1))
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.tsv").write_text("text\n" + "".join(f"{next(texts)}\n" for _ in range(40 + n)))
    (tmp_path / "in" / "3.tsv").write_text('text\nno end: """\n"a" b\n')
    sources, options = sorted((tmp_path / "in").iterdir()), Options(str(run), threads=1)
    engines = {
        "local": lambda jobs: label_files(jobs, options, options.load, Untracked()),
        "ray": lambda jobs: ray_engine.label_files(jobs, options, workers=2),
    }
    found = {}
    for name, label in engines.items():
        (tmp_path / name).mkdir()
        jobs = find_jobs(sources, tmp_path / name, None)
        found[name] = {job.source.name: counts for job, counts in label(jobs)}
    with pytest.raises(TableError, match=r"--workers 2 with 999 threads take 1998 processors; Ray has \d+"):
        list(ray_engine.label_files(jobs, replace(options, threads=999), workers=2))
    ray.shutdown()
    assert found["ray"] == found["local"]
    assert "expected after" in found["ray"].pop("3.tsv")
    assert {counts["messages"] for counts in found["ray"].values()} == {40, 41, 42}
    written = {engine: {path.name: path.read_bytes() for path in (tmp_path / engine).iterdir()} for engine in engines}
    assert written["ray"] == written["local"]
    assert sorted(written["ray"]) == ["0.tsv", "1.tsv", "2.tsv"]
