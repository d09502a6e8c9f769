"""When checkpoints are written, and how."""

from types import SimpleNamespace

import pytest
import torch

from spamlit.training import checkpoint
from spamlit.training.checkpoint import AtomicCheckpointIO, LastCheckpoint


@pytest.fixture
def saves(tmp_path, monkeypatch):
    """saves(**settings, took=…) runs 3 epochs of 20 steps of 1 s each and gives the steps after which was saved."""

    def steps(took=0.0, **settings):
        now = 0.0
        trainer = SimpleNamespace(global_step=0, current_epoch=0, max_epochs=3, should_stop=False, saved=[])
        trainer.strategy = SimpleNamespace(broadcast=lambda value: value)

        def save(path):
            nonlocal now
            now += took
            trainer.saved.append(trainer.global_step)

        trainer.save_checkpoint = save
        monkeypatch.setattr(checkpoint, "_validates_next", lambda trainer: False)
        monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: now))
        last = LastCheckpoint(tmp_path, **settings)
        last.on_train_start(trainer, None)
        for epoch in range(3):
            trainer.current_epoch = epoch
            for _ in range(20):
                now += 1
                trainer.global_step += 1
                last.on_train_batch_end(trainer, None, None, None, 0)
            last.on_train_epoch_end(trainer, None)
        last.on_train_end(trainer, None)
        return trainer.saved

    return steps


def test_last_is_saved_by_time_and_at_the_end(saves):
    assert saves(every_seconds=24) == [25, 50, 60]


def test_last_is_saved_by_steps(saves):
    assert saves(every_n_steps=25, every_seconds=1000) == [25, 50, 60]


def test_slow_saves_take_a_twentieth_of_the_time(saves):
    assert saves(every_seconds=4, took=0.72) == [5, 20, 35, 50, 60]


def test_a_failed_save_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        AtomicCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert list(path.parent.iterdir()) == [path]
