"""Loggers beside TensorBoard: hyperparameters, curves and final figures; each run is one of its own."""

import pytest


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Weights & Biases without account or network, and with its caches in the test's folder."""
    pytest.importorskip("wandb", reason='pip install "spamlit[wandb]"')
    for variable in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "wandb"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_weights_and_biases_offline(run, offline):
    done = [run("logger=wandb", "logger.wandb.offline=true", f"seed={seed}", folder=f"{seed}") for seed in (1, 2)]
    for each in done:
        [written] = each.folder.glob("wandb/offline-run-*/run-*.wandb")
        content = written.read_bytes()
        assert all(word in content for word in (b"val/f1", b"train/loss", b"final/test/f1", b"optimizer.lr"))
        assert list((each.folder / "tensorboard").glob("events*"))


def test_mlflow_in_a_database(run, monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason='pip install "spamlit[mlflow]"')
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = run("logger=mlflow")
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("spamlit")
    [found] = client.search_runs([experiment.experiment_id])
    assert found.data.params["model.trainable"] == "last_block"
    assert found.data.metrics["final/test/f1"] == pytest.approx(done.metrics["test/f1"])
    assert len(client.get_metric_history(found.info.run_id, "val/loss")) == 2
    assert found.data.tags["run"] == str(done.folder)
    assert found.info.status == "FINISHED"


def test_an_extra_that_is_not_installed_is_named(config, monkeypatch):
    from spamlit.training import checks

    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'logger=wandb needs .* pip install "spamlit\[wandb\]"'):
        checks.check(config("logger=wandb"))


def test_the_profiler_writes_its_tables_into_the_run(run):
    done = run("debug=profile", "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    assert done.trainer.global_step == 2
    assert "run_training_epoch" in (done.folder / "fit-profile.txt").read_text()
    assert ".test_step" in (done.folder / "test-profile.txt").read_text()
