"""Averages of weights: what they are of, who sees them, and that training does not."""

from itertools import pairwise

import pytest
import torch
from lightning.pytorch.callbacks import Callback

import spamlit.training.train as recipe
from spamlit.training.averaging import WeightAverage

AVERAGED = ("callbacks=averaging", "trainer.max_epochs=4")
STEPS = 20  # four epochs of five


class Seen(Callback):
    """The weights after each batch, as training has them, and those that validation sees."""

    def __init__(self):
        self.after, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.after.append(weights(pl_module))

    def on_validation_epoch_start(self, trainer, pl_module):
        self.validated.append(weights(pl_module))


def weights(module):
    return {name: value.clone() for name, value in module.classifier.trained_state().items()}


def agree(first, second):
    return first.keys() == second.keys() and all(torch.allclose(first[n], second[n], rtol=0, atol=1e-6) for n in first)


def mean(states):
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


@pytest.fixture
def watched(run, monkeypatch):
    """watched(*overrides, folder=…) gives the run and what was seen in it."""
    made = recipe.make_trainer

    def train(*overrides, folder="run"):
        seen = Seen()

        def watching(cfg):
            trainer = made(cfg)
            trainer.callbacks.append(seen)
            return trainer

        monkeypatch.setattr(recipe, "make_trainer", watching)
        return run(*overrides, folder=folder), seen

    return train


def test_the_mean_of_the_later_steps_is_validated_tested_and_bundled(watched):
    done, seen = watched(*AVERAGED, "evaluate=last")
    assert len(seen.after) == STEPS
    half = STEPS // 2
    assert agree(weights(done.module), mean(seen.after[half:]))
    assert agree(seen.validated[1], seen.after[half - 1])  # there is no average yet
    assert agree(seen.validated[2], mean(seen.after[half:15]))
    assert agree(seen.validated[3], weights(done.module))


def test_an_exponential_average_forgets(watched):
    done, seen = watched(*AVERAGED, "evaluate=last", "callbacks.averaging.start=0", "callbacks.averaging.decay=0.7")
    expected = seen.after[0]
    for state in seen.after[1:]:
        expected = {name: 0.7 * value + 0.3 * state[name] for name, value in expected.items()}
    assert agree(weights(done.module), expected)


def test_training_does_not_notice(watched):
    _, plain = watched("trainer.max_epochs=4", folder="plain")
    done, averaged = watched(*AVERAGED, folder="averaged")
    for first, second in zip(plain.after, averaged.after, strict=True):
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    last = torch.load(done.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(torch.equal(last["state_dict"][f"classifier.{n}"], value) for n, value in averaged.after[-1].items())


def test_the_best_average_is_the_one_that_is_tested(watched):
    done, seen = watched(*AVERAGED, "optimizer.lr=0.05", "callbacks.averaging.start=0.2")
    best = torch.load(done.folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert agree(weights(done.module), best["average"])
    assert any(agree(weights(done.module), state) for state in seen.validated)


def test_accumulated_gradients_count_once(watched):
    done, seen = watched(*AVERAGED, "evaluate=last", "trainer.accumulate_grad_batches=2", "callbacks.averaging.start=0")
    steps = [now for before, now in pairwise(seen.after) if any(not now[n].equal(before[n]) for n in now)]
    assert len(steps) == done.trainer.global_step < len(seen.after) / 1.5
    assert agree(weights(done.module), mean(steps))


@pytest.mark.parametrize("setting", [{"start": 1.0}, {"start": -0.1}, {"decay": 1.0}, {"decay": float("nan")}])
def test_shares_that_are_none_are_refused(setting):
    with pytest.raises(ValueError, match=rf"callbacks.averaging.{next(iter(setting))}="):
        WeightAverage(**setting)
