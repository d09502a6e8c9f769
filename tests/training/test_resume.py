"""A run that was interrupted anywhere and resumed ends in the same weights, bit for bit, as one that was not."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from spamlit.training.train import train

CHOICES = ("model.dropout=0.2", "scheduler=linear", "trainer.max_epochs=3", "trainer.val_check_interval=2")
STEPS = 15  # three epochs of five


class Stop(Callback):
    """Raises in the middle of a step, or in another hook after it."""

    def __init__(self, step, hook="on_before_optimizer_step"):
        self.step = step
        setattr(self, hook, self.stop)

    def stop(self, trainer, *_):
        if trainer.global_step == self.step:
            raise RuntimeError("pulled the plug")


@pytest.fixture
def undisturbed(run):
    return run(*CHOICES, folder="undisturbed")


@pytest.fixture
def interrupted(config, monkeypatch, tmp_path):
    """interrupted(7, "seed=1") trains in a folder of its own, is stopped in the step after the 7th, and goes on.

    interrupted(7, hook="on_validation_end") is stopped in that hook after the 7th step.
    """
    import spamlit.training.train as recipe

    made = recipe.make_trainer

    def stopped_and_resumed(step, *choices, hook="on_before_optimizer_step", moved_to=None):
        def stopping(cfg):
            trainer = made(cfg)
            trainer.callbacks.append(Stop(step, hook))
            return trainer

        folder = f"stopped-{step}-{hook}"
        with monkeypatch.context() as patch:
            patch.setattr(recipe, "make_trainer", stopping)
            with pytest.raises(RuntimeError, match="pulled"):
                train(config(*choices, folder=folder))
        if moved_to is not None:
            (tmp_path / folder).rename(tmp_path / moved_to)
        cfg = config(*choices, folder=moved_to or folder)
        cfg.ckpt = str(cfg.run_dir)
        return train(cfg)

    return stopped_and_resumed


# A checkpoint after each step, after each third, or at the ends of epochs alone.
@pytest.mark.parametrize(("every", "steps"), [(1, range(1, STEPS)), (3, range(1, STEPS)), (100, (3, 5, 6, 12))])
def test_interrupted_anywhere_ends_in_the_same_weights(undisturbed, interrupted, every, steps):
    wanted = undisturbed.module.classifier.trained_state()
    for step in steps:
        resumed = interrupted(step, *CHOICES, f"callbacks.last.every_n_steps={every}")
        assert resumed.trainer.global_step == STEPS
        for name, value in resumed.module.classifier.trained_state().items():
            assert torch.equal(value, wanted[name]), f"{name} after a stop at step {step}"
        assert resumed.metrics == undisturbed.metrics


@pytest.mark.parametrize("hook", ["on_validation_start", "on_validation_batch_end", "on_validation_end"])
@pytest.mark.parametrize(("between", "steps"), [(2, (2, 4, 7)), (1.0, (5, 10)), (1, (3, 5, 11))])
def test_interrupted_in_a_validation_it_is_made_up_for(run, interrupted, hook, between, steps):
    """Every step is kept, but where `last.ckpt` waits for the validation, that is repeated with the step before."""
    choices = (*CHOICES, f"trainer.val_check_interval={between}", "callbacks.last.every_n_steps=1", "optimizer.lr=0.3")
    undisturbed = run(*choices, folder="undisturbed")
    wanted = undisturbed.module.classifier.trained_state()
    for step in steps:
        resumed = interrupted(step, *choices, hook=hook)
        assert resumed.metrics == undisturbed.metrics, f"stopped in the validation after step {step}"
        for name, value in resumed.module.classifier.trained_state().items():
            assert torch.equal(value, wanted[name]), f"{name}: stopped in the validation after step {step}"


def test_a_run_that_was_moved_still_knows_its_best_checkpoint(run, interrupted):
    choices = (*CHOICES, "callbacks.last.every_n_steps=1", "optimizer.lr=0.3")
    undisturbed = run(*choices, folder="undisturbed")
    assert interrupted(11, *choices, moved_to="elsewhere").metrics == undisturbed.metrics


def test_lora_goes_on_with_its_own_matrices(run, interrupted):
    choices = (*CHOICES, "model.trainable=lora", "callbacks.last.every_n_steps=3")
    whole = run(*choices, folder="whole")
    resumed = interrupted(7, *choices)
    for name, value in whole.module.classifier.trained_state().items():
        assert torch.equal(resumed.module.classifier.trained_state()[name], value), name


@pytest.mark.parametrize("step", [4, 8, 13])  # before the first average, after it, late
@pytest.mark.parametrize("decay", ["null", "0.8"])
def test_averages_go_on(run, interrupted, step, decay):
    averaged = ("callbacks=averaging", f"callbacks.averaging.decay={decay}", "evaluate=last")
    choices = (*CHOICES, *averaged, "callbacks.last.every_n_steps=3")
    whole = run(*choices, folder="whole")
    resumed = interrupted(step, *choices)
    last = [torch.load(done.folder / "checkpoints/last.ckpt", weights_only=True) for done in (whole, resumed)]
    for part in ("state_dict", "average"):
        assert all(torch.equal(value, last[1][part][name]) for name, value in last[0][part].items())
    assert resumed.metrics == whole.metrics


def test_going_on_after_the_end_changes_nothing(config, undisturbed):
    cfg = config(*CHOICES, folder="undisturbed")
    cfg.ckpt = str(cfg.run_dir)
    assert train(cfg).metrics == undisturbed.metrics


def test_more_epochs_go_on_from_the_end(config, run):
    same = ("evaluate=last", "scheduler=constant")  # a decay depends on the number of epochs
    whole = run("trainer.max_epochs=3", *same, folder="whole")
    run("trainer.max_epochs=2", *same, folder="short")
    cfg = config("trainer.max_epochs=3", *same, folder="short")
    cfg.ckpt = str(cfg.run_dir)
    longer = train(cfg)
    assert longer.metrics == whole.metrics
