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
    one, two = (json.loads((place / name / "metrics.json").read_text()) for name in ("alone", case))
    assert one == pytest.approx(two, abs=1e-5)
    one, two = (
        torch.load(place / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("alone", case)
    )
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(weights, two[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_processes_with_a_folder_each_are_refused(folder, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "2")
    assert run("trainer=ddp-cpu") == 2
    assert f"{variable}=2: several processes need one folder. Add hydra.run.dir=" in capsys.readouterr().err
