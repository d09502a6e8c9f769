"""Sweeps: what is finished is not run again, whatever runs the jobs, and the table at the end is the same."""

import importlib.util
import json
import time

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from tests.cli.command import run
from tests.synthetic import write_collection

from spamlit.cli.sweep import JobFailedError, ResumingLauncher, finished
from spamlit.cli.train import CONF, resumed
from spamlit.training.run_folder import find_sweep


class Recorder(Launcher):
    """Runs nothing: notes what it was given and answers with 0, 1, …"""

    def __init__(self):
        self.given = []

    def setup(self, **_):
        pass

    def launch(self, job_overrides, initial_job_idx):
        self.given = [list(overrides) for overrides in job_overrides]
        return [finished(overrides, n) for n, overrides in enumerate(job_overrides)]


@pytest.fixture
def launcher(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"hydra.sweep.dir={tmp_path}/sweep"], return_hydra_config=True)
    return ResumingLauncher(Recorder(), config)


def job(launcher, name, *overrides, f1=None, report=False):
    """A job's folder; finished where it has an F1."""
    folder = launcher.folder / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {override}\n" for override in overrides))
    (folder / ".hydra" / "config.yaml").write_text(f"report: {report}\n")
    if f1 is not None:
        (folder / "metrics.json").write_text(json.dumps({"val/f1": f1}))
        (folder / "run.json").write_text("{}")
    return folder


def test_a_new_sweep_is_numbered_from_zero(launcher):
    launcher.launch([["seed=1"], ["seed=2"]], 0)
    assert launcher.launcher.given == [["seed=1", "hydra.sweep.subdir=0"], ["seed=2", "hydra.sweep.subdir=1"]]


def test_finished_jobs_give_their_figure_and_the_others_run_in_their_own_folders(launcher):
    job(launcher, "0", "seed=1", "model.trainable=head", f1=0.75)
    half = job(launcher, "1", "model.trainable=head", "seed=2", f"ckpt={launcher.folder}/1")
    job(launcher, "4", "model.trainable=head", "seed=9", f1=0.5)
    jobs = [["model.trainable=head", f"seed={seed}"] for seed in (3, 2, 1, 4)]
    results = launcher.launch(jobs, 0)
    assert [result.return_value for result in results] == [0, 1, 0.75, 2]
    assert [given[2:] for given in launcher.launcher.given] == [
        ["hydra.sweep.subdir=2"],
        ["hydra.sweep.subdir='1'", f"ckpt='{half}'"],
        ["hydra.sweep.subdir=3"],
    ]


@pytest.mark.parametrize("how", ["threads=2", "sweep=seeds", "launcher=parallel"])
def test_how_a_job_is_run_does_not_make_it_another(launcher, how):
    job(launcher, "0", "seed=1", f1=0.75)
    assert launcher.launch([["seed=1", how]], 0)[0].return_value == 0.75


def test_a_job_that_stopped_before_its_report_is_not_finished(launcher):
    folder = job(launcher, "0", "seed=1", f1=0.75, report=True)
    assert launcher.launch([["seed=1"]], 0)[0].return_value == 0
    (folder / "report.html").touch()
    assert launcher.launch([["seed=1"]], 0)[0].return_value == 0.75


def test_equal_jobs_have_folders_of_their_own(launcher):
    job(launcher, "0", "seed=1", f1=0.75)
    launcher.launch([["seed=1"], ["seed=1"]], 0)
    assert launcher.launcher.given == [["seed=1", "hydra.sweep.subdir=1"]]


def test_folders_that_the_user_names_stay_his(tmp_path):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = [f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=seed${seed}"]
        launcher = ResumingLauncher(Recorder(), compose("train", given, return_hydra_config=True))
    job(launcher, "seed2", "seed=2")
    launcher.launch([["seed=1"], ["seed=2"]], 0)
    assert launcher.launcher.given[0] == ["seed=1"]
    assert launcher.launcher.given[1][1] == "hydra.sweep.subdir='seed2'"


def test_overrides_cut_off_by_a_crash_are_nobodys(launcher):
    (job(launcher, "0") / ".hydra" / "overrides.yaml").write_text("- 'seed=1")
    launcher.launch([["seed=1"]], 0)
    assert launcher.launcher.given == [["seed=1", "hydra.sweep.subdir=1"]]


def test_a_defect_is_no_failure_to_go_on_from(launcher):
    def failing(error):
        result = JobReturn(overrides=["seed=1"])
        result.status, result.return_value = result.status.FAILED, error
        return result

    launcher.launcher.launch = lambda *_: [failing(JobFailedError("why")), failing(KeyError("defect"))]
    refused, broken = launcher.launch([["seed=1"], ["seed=2"]], 0)
    assert refused.return_value != refused.return_value
    assert launcher.failures == ["seed=1: why"]
    with pytest.raises(KeyError):
        _ = broken.return_value


@pytest.fixture
def trained(monkeypatch):
    """The overrides of the jobs that really trained."""
    import spamlit.training.train as recipe

    seeds, train = [], recipe.train
    monkeypatch.setattr(recipe, "train", lambda cfg: seeds.append(cfg.seed) or train(cfg))
    return seeds


def test_a_sweep_goes_on_and_grows(folder, capsys, trained):
    assert run("sweep=seeds", "seed=1,2", "hydra.sweep.dir=sweep") == 0
    table = capsys.readouterr().out
    assert "2 runs, written to sweep/compare.csv" in table
    assert run("-m", "seed=1,2", "hydra.sweep.dir=sweep") == 0
    assert trained == [1, 2]
    assert "2 of 2 jobs are finished already" in capsys.readouterr().out
    assert run("ckpt=sweep", "seed=0,1,2") == 0
    assert trained == [1, 2, 0]
    assert len(pd.read_csv("sweep/compare.csv")) == 3
    assert find_sweep("sweep") == find_sweep(folder / "sweep").relative_to(folder)


def test_one_job_of_a_sweep_can_go_on_alone(folder, trained):
    assert run("sweep=seeds", "seed=1,2", "hydra.sweep.dir=sweep") == 0
    assert run("ckpt=sweep/1") == 0
    assert trained == [1, 2, 2]
    assert not (folder / "outputs").exists()


def test_what_was_refused_is_tried_again_and_the_rest_is_kept(folder, capsys, trained):
    command = ("-m", "seed=1,2", "data.max_length=longest,0", "hydra.sweep.dir=sweep")
    assert run(*command) == 1
    assert trained == [1, 1, 2, 2]
    assert run("ckpt=sweep", "-m") == 1
    assert trained == [1, 1, 2, 2, 1, 2]
    assert "2 of the jobs failed" in capsys.readouterr().err


def test_ctrl_c_says_how_to_go_on(folder, capsys, monkeypatch):
    def stopped(cfg):
        raise KeyboardInterrupt

    monkeypatch.setattr("spamlit.training.train.train", stopped)
    assert run("-m", "seed=1,2", "hydra.sweep.dir=outputs/multirun/2026-01-01/10-00-00") == 130
    assert "python train.py ckpt=outputs/multirun/2026-01-01/10-00-00" in capsys.readouterr().err
    given = resumed(["ckpt=latest", "-m", "report=true"])
    assert given.count("-m") == 1
    assert {"seed=1,2", "report=true"} < set(given)
    assert "report=false" not in given
    assert given[-1] == f"hydra.sweep.dir={folder}/outputs/multirun/2026-01-01/10-00-00"


def figures(sweep):
    """What the table says, but for folders and seconds."""
    table = pd.read_csv(sweep / "compare.csv").drop(columns=["run", "seconds"])
    return table.sort_values(sorted(table.columns), ignore_index=True)[sorted(table.columns)]


GRID = ("-m", "model.trainable=head,last_block,last_two_blocks", "optimizer.lr=1e-3,3e-3", "seed=1,2")


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.fault("kill", "sweep")
def test_twelve_jobs_killed_in_the_middle_end_in_the_same_table(tmp_path, start):
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    whole = start(*GRID, "hydra.sweep.dir=whole", cwd=tmp_path)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors
    killed = start(*GRID, "hydra.sweep.dir=killed", cwd=tmp_path)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/*/run.json"))) < 5 and time.monotonic() < deadline:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/run.json")}
    assert 5 <= len(before) < 12
    again = start(*GRID, "hydra.sweep.dir=killed", cwd=tmp_path)
    said, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert f"{len(before)} of 12 jobs are finished already" in said
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    assert sorted(path.name for path in (tmp_path / "killed").glob("[0-9]*")) == sorted(map(str, range(12)))
    pd.testing.assert_frame_equal(figures(tmp_path / "killed"), figures(tmp_path / "whole"))


def lora_rank(run):
    """The rank of the matrices that a run trained."""
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    [rank] = {matrix.shape[1] for name, matrix in weights.items() if name.endswith(".lora_a")}
    return rank


STUDY = ("sweep=study", "hydra.sweep.dir=sweep", "model.last_k=range(1,3)")


def test_a_trial_of_another_search_is_not_run(folder, capsys, trained):
    """Its values would be overrides, and the folder may be a stranger's."""
    optuna = pytest.importorskip("optuna", reason='pip install "spamlit[study]"')
    assert run(*STUDY, "hydra.sweeper.trials=1") == 0
    study = optuna.load_study(study_name="spamlit", storage="sqlite:///sweep/study.db")
    study.ask({"+callbacks.x": optuna.distributions.CategoricalDistribution(["{_target_:os.mkdir,path:trap}"])})
    assert run(*STUDY, "hydra.sweeper.trials=2") == 0
    assert [trial.state.name for trial in study.get_trials()] == ["COMPLETE", "FAIL"]
    assert not (folder / "trap").exists()


def test_a_study_goes_on_and_says_what_mattered(folder, capsys, trained):
    optuna = pytest.importorskip("optuna", reason='pip install "spamlit[study]"')
    searched = "optimizer.lr=tag(log,interval(1e-4,1e-2))"  # the tests' own lr would fix it
    assert run(*STUDY, searched, "hydra.sweeper.trials=3") == 0
    assert len(trained) == 3
    study = optuna.load_study(study_name="spamlit", storage="sqlite:///sweep/study.db")
    first = study.get_trials()
    study.ask(first[0].distributions)  # asked for, then the power failed
    assert run("ckpt=sweep", searched, "hydra.sweeper.trials=6") == 0
    assert len(trained) == 6
    trials = study.get_trials()
    assert [trial.params for trial in trials[:3]] == [trial.params for trial in first]
    assert len({tuple(trial.params.values()) for trial in trials}) == 6
    assert set(trials[0].params) == {"optimizer.lr", "optimizer.weight_decay", "model.last_k", "model.lora.rank"}
    ranks = [lora_rank(folder / "sweep" / str(n)) for n in range(6)]
    assert ranks == [trial.params["model.lora.rank"] for trial in trials]
    assert len(set(ranks)) > 1
    table = pd.read_csv("sweep/compare.csv").sort_values("run")
    assert table["val/f1"].tolist() == pytest.approx([trial.value for trial in trials])
    assert set(table["model.last_k"]) <= {1, 2}
    assert table["optimizer.lr"].tolist() == pytest.approx([t.params["optimizer.lr"] for t in trials], rel=1e-3)
    said = capsys.readouterr().out
    assert f"best of 6 trials: val/f1={max(trial.value for trial in trials):.4f}" in said
    if len(set(table["val/f1"])) > 1:
        assert set(pd.read_csv("sweep/importance.csv")["key"]) == set(trials[0].params)


def test_failed_trials_count_and_are_told(folder, capsys):
    pytest.importorskip("optuna", reason='pip install "spamlit[study]"')
    assert run(*STUDY, "hydra.sweeper.trials=2", "hydra.sweeper.max_batch_size=2", "data.max_length=0") == 1
    assert "2 of the jobs failed" in capsys.readouterr().err
    assert run(*STUDY, "hydra.sweeper.trials=2", "data.max_length=0") == 0  # both were tried: nothing is left to do


LAUNCHERS = {
    "parallel": ["launcher=parallel"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "threads=1"],
}


@pytest.mark.assets
@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
def test_jobs_in_other_processes(tmp_path, start, name):
    if name == "submitit" and importlib.util.find_spec("submitit") is None:
        pytest.skip('no submitit: pip install "spamlit[slurm]"')
    write_collection(tmp_path / "collection", n_ham=60, n_spam=30)
    swept = start("-m", *LAUNCHERS[name], "model.trainable=head,last_blok", "seed=1,2", cwd=tmp_path)
    _, errors = swept.communicate(timeout=300)
    assert swept.returncode == 1
    assert "2 of the jobs failed" in errors
    assert "model.trainable=last_blok,seed=2: model.trainable=last_blok: choose one of" in errors
    done = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("outputs/multirun/*/*/*/run.json"))]
    assert [(record["seeds"]["seed"], record["device"].split(",")[0]) for record in done] == [
        (1, "cpu (1 threads"),
        (2, "cpu (1 threads"),
    ]
