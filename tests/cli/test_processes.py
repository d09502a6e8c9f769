"""Two processes that share each batch, however they were started and whatever each holds, do what one does.

Those of fsdp in two goes, of an epoch each.
"""

import json

import pytest
import torch
from tests.cli.command import run, started
from tests.synthetic import write_collection

TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
FSDP = ("trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.devices=2")
EPOCHS = ("trainer.max_epochs=2",)
ALL = ("data.drop_last=false", "scheduler=constant")  # a schedule would depend on the epochs that are left
WITH_BLOCK = ("backbone.n_layer=3", "model.trainable=head", "model.pooling=mean_nonfirst", "model.layers=[2,3]")
WITH_BLOCK += ("model.head.hidden=8", "model.head.sources=true", "model.head.block=1e-3", "data.extra=[added.csv]")
WITH_BLOCK += ("data.batch_size=6", "data.score_train=false", "trainer.max_epochs=1", "report=false")
CASES = {
    "ddp": ((), (*EPOCHS, "trainer=ddp-cpu")),
    "torchrun": (TORCHRUN, (*EPOCHS, "trainer=ddp-cpu")),
    "fsdp": ((), (*FSDP, "data.prefix_cache=false")),  # so that frozen shares are gathered too
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a collection and, in `alone`, the run of one process."""
    folder = tmp_path_factory.mktemp("processes")
    write_collection(folder / "collection", n_ham=60, n_spam=30)
    process = started("hydra.run.dir=alone", *EPOCHS, *ALL, cwd=folder)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder


@pytest.mark.assets
@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_metrics_and_weights_of_one(place, start, case):
    launcher, overrides = CASES[case]
    goes = [(*overrides, f"hydra.run.dir={case}", *ALL)]
    if case == "fsdp":
        goes.append((f"ckpt={case}", *EPOCHS))
    for go in goes:
        process = start(*go, cwd=place, launcher=launcher)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert_alike(place / "alone", place / case)


def assert_alike(*folders):
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert one == pytest.approx(two, abs=1e-5)
    one, two = (torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for folder in folders)
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], atol=1e-4, rtol=1e-3)


@pytest.mark.assets
def test_a_head_with_a_block_of_its_own_where_processes_share_batches_and_splits_unevenly(tmp_path, start):
    write_collection(tmp_path / "collection", n_ham=35, n_spam=33)
    added = [
        ("spam" if n % 2 else "ham", f"{'toll unpaid' if n % 2 else 'your code'} {n} {'ab' * n}") for n in range(40)
    ]
    (tmp_path / "added.csv").write_text("label,text\n" + "".join(f"{label},{text}\n" for label, text in added))
    for name, overrides in {"alone": (), "ddp": ("trainer=ddp-cpu",), "fsdp": FSDP}.items():
        _, errors = start(*WITH_BLOCK, *ALL, *overrides, f"hydra.run.dir={name}", cwd=tmp_path).communicate(timeout=300)
        assert (tmp_path / name / "metrics.json").is_file(), errors
    for name in ("ddp", "fsdp"):
        assert_alike(tmp_path / "alone", tmp_path / name)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_processes_with_a_folder_each_are_refused(folder, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert run("trainer=ddp-cpu") == 2
    assert f"{variable}=2: several processes need one folder. Add hydra.run.dir=" in capsys.readouterr().err


@pytest.mark.parametrize("sweep", ["-m", "sweep=seeds", "hydra.mode=MULTIRUN"])
def test_a_sweep_in_each_of_several_processes_is_refused(folder, capsys, monkeypatch, sweep):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(sweep, "seed=1,2", "hydra.run.dir=run") == 2
    assert "WORLD_SIZE=2: each process would run the whole sweep. Start one alone, with" in capsys.readouterr().err
