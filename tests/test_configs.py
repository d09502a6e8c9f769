"""Every file under conf/ composes, says what it is for and which command uses it, and can be instantiated."""

from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf

from spamlit.cli.train import CONF
from spamlit.training.checks import check
from spamlit.training.train import make_data, make_trainer

EXTRAS = {"launcher/slurm.yaml": "submitit", "logger/wandb.yaml": "wandb", "logger/mlflow.yaml": "mlflow"}
FILES = sorted(path.relative_to(CONF) for path in CONF.rglob("*.yaml"))
CHOICES = [path for path in FILES if len(path.parts) > 1]
NEEDS = {"data/csv.yaml": ["data.source=mine.csv"]}
GPU = {"trainer/gpu.yaml", "trainer/ddp.yaml", "trainer/fsdp.yaml"}


def composed(path: Path, run_dir: Path):
    parts = path.with_suffix("").parts
    split = 1 if parts[0] == "experiment" else len(parts) - 1  # experiment=ablation/row01, hydra/sweeper=resuming
    group, name = "/".join(parts[:split]), "/".join(parts[split:])
    override = [f"{group}={name}"] if group else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", [*override, *NEEDS.get(path.as_posix(), []), f"run_dir={run_dir}"])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_composes_and_instantiates(path, tmp_path, monkeypatch):
    if path.as_posix() in EXTRAS:
        pytest.importorskip(EXTRAS[path.as_posix()])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    cfg = composed(path, tmp_path)
    if path.as_posix() in GPU:
        with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
            check(cfg)
        cfg.trainer.accelerator, cfg.trainer.precision = "cpu", "32-true"
        cfg.trainer.devices = 1
    check(cfg)
    make_data(cfg)
    trainer = make_trainer(cfg)
    assert trainer.max_epochs or trainer.max_steps > 0
    assert hydra.utils.instantiate(cfg.optimizer).func.__name__ == "adamw"
    assert callable(hydra.utils.instantiate(cfg.scheduler))


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] in ("sweep", "launcher")], ids=str)
def test_what_runs_a_sweep_is_there_and_its_keys_are_known(path):
    if path.as_posix() in EXTRAS:
        pytest.importorskip(EXTRAS[path.as_posix()])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [f"{path.parts[0]}={path.stem}"], return_hydra_config=True)
        assert {cfg.hydra.sweeper._target_, cfg.hydra.launcher._target_} <= set(Plugins.instance().class_name_to_class)
        assert (cfg.hydra.mode == RunMode.MULTIRUN) == (path.parts[0] == "sweep")
        for key, values in cfg.hydra.sweeper.params.items():
            assert OverridesParser.create().parse_override(f"{key}={values}").get_key_element() == key
            chosen = values.split(",")[0] if key == "experiment" else "null"  # a group, not a value
            compose("train", [f"{key}={chosen}"])


@pytest.mark.parametrize("path", FILES, ids=str)
def test_begins_with_its_purpose_and_its_command(path):
    lines = (CONF / path).read_text(encoding="utf-8").splitlines()
    comments = [line for line in lines[:12] if line.startswith("#") and "@package" not in line]
    assert len(comments) >= 2
    assert any("python train.py" in line for line in comments)


@pytest.mark.parametrize("path", CHOICES, ids=str)
def test_no_value_is_left_to_an_unknown_key(path):
    cfg = OmegaConf.load(CONF / path)
    OmegaConf.set_struct(cfg, True)
    with pytest.raises(Exception, match="not in struct"):
        cfg.no_such_key = 1
