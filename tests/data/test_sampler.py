import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from spamlit.data.batch import Messages, collate
from spamlit.data.sampler import BatchSampler, ResumableLoader, make_batches

ORDERS = ["shuffled", "buckets", "torch", "lesson", "sequential", "longest_first"]
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=80)


@given(
    lengths=lengths,
    batch_size=st.integers(1, 9),
    order=st.sampled_from(ORDERS),
    epoch=st.integers(0, 3),
    drop=st.booleans(),
)
@settings(deadline=None)
def test_an_epoch_is_a_permutation_cut_into_batches(lengths, batch_size, order, epoch, drop):
    sampler = BatchSampler(lengths, batch_size=batch_size, order=order, seed=5, drop_last=drop)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    rows = [row for batch in batches for row in batch]
    kept = len(lengths) // batch_size * batch_size if drop else len(lengths)
    assert len(set(rows)) == len(rows) == kept
    assert set(rows) <= set(range(len(lengths)))
    assert len(batches) == len(sampler)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert batches == list(sampler)


@pytest.mark.parametrize("order", ["shuffled", "buckets", "torch", "lesson"])
def test_seeds_and_epochs_differ(order):
    draws = {str(make_batches([3] * 40, batch_size=4, order=order, seed=s, epoch=e)) for s in (0, 1) for e in (0, 1, 2)}
    assert len(draws) == 6


def test_buckets_hold_alike_lengths_in_random_order():
    lengths = [n % 50 + 1 for n in range(1600)]

    def padding(order):
        batches = make_batches(lengths, batch_size=8, order=order, seed=1)
        return sum(max(lengths[row] for row in batch) * len(batch) for batch in batches) / sum(lengths) - 1

    assert padding("buckets") < 0.1 < 0.5 < padding("shuffled")
    firsts = [lengths[batch[0]] for batch in make_batches(lengths, batch_size=8, order="buckets", seed=1)]
    assert firsts != sorted(firsts)


@given(lengths=lengths, per_process=st.integers(1, 4), world=st.integers(1, 4), order=st.sampled_from(ORDERS))
@settings(deadline=None)
def test_processes_share_each_global_batch(lengths, per_process, world, order):
    options = {"batch_size": per_process * world, "order": order, "seed": 3}
    whole = list(BatchSampler(lengths, **options))
    shares = [list(BatchSampler(lengths, **options, rank=rank, world_size=world)) for rank in range(world)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert sorted(row for part in parts for row in part if row >= 0) == sorted(batch)


def indices(batches):
    return [batch.index.tolist() for batch in batches]


def loader(rows=22, **options):
    lengths = [row % 7 + 1 for row in range(rows)]
    options = {"batch_size": 4, "order": "shuffled", "seed": 9} | options
    workers = options.pop("num_workers", 0)
    messages = Messages([[1] * n for n in lengths], [0] * rows, pad_id=0)
    return ResumableLoader(
        messages, BatchSampler(lengths, **options), collate_fn=lambda rows: collate(rows, 0), num_workers=workers
    )


def epochs(loader, first, last):
    for epoch in range(first, last):
        loader.batch_sampler.set_epoch(epoch)
        yield indices(loader)


@pytest.mark.parametrize("order", ["shuffled", "buckets", "torch", "lesson"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resuming_at_every_batch_sees_what_is_left(order, drop_last):
    options = {"order": order, "drop_last": drop_last}
    whole = list(epochs(loader(**options), 0, 3))
    for epoch in range(3):
        for seen in range(len(whole[epoch]) + 1):
            first = loader(**options)
            first.batch_sampler.set_epoch(epoch)
            iterator = iter(first)
            for _ in range(seen):
                next(iterator)
            state = first.state_dict()
            second = loader(**options)
            second.load_state_dict(state)
            assert second.state_dict() == state or seen == 0
            assert len(second) == len(whole[0])
            rest = list(epochs(second, epoch, 3))
            assert rest == [whole[epoch][seen:], *whole[epoch + 1 :]]


def test_a_state_from_the_end_of_an_epoch_starts_the_next_whole():
    whole = list(epochs(loader(), 0, 2))
    first = loader()
    list(first)
    second = loader()
    second.load_state_dict(first.state_dict())
    assert list(epochs(second, 1, 2)) == whole[1:]


def test_workers_do_not_change_what_counts_as_seen():
    whole = list(epochs(loader(), 0, 2))
    first = loader(num_workers=1)
    iterator = iter(first)
    next(iterator)
    second = loader(num_workers=1)
    second.load_state_dict(first.state_dict())
    assert list(epochs(second, 0, 2)) == [whole[0][1:], whole[1]]


def test_another_batch_size_cannot_be_resumed():
    with pytest.raises(ValueError, match="batch_size was 4 and is 2"):
        loader(batch_size=2).load_state_dict(loader().state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"order": "random"}, "choose from shuffled"), ({"batch_size": 0}, "too small"), ({"seed": -1}, "0 or more")],
)
def test_bad_choices(options, message):
    with pytest.raises(ValueError, match=message):
        loader(**options)


def lesson_orders(n_train, n_validation, batch_size, epochs, evaluations):
    """The order that real DataLoaders give in the lesson's training loop."""
    torch.manual_seed(123)
    train = DataLoader(range(n_train), batch_size=batch_size, shuffle=True, drop_last=True)
    validation = DataLoader(range(n_validation), batch_size=batch_size)

    def evaluate():
        for data in (train, validation):
            for number, _ in enumerate(data):
                if number >= 5:
                    break

    step = -1
    for _ in range(epochs):
        order = []
        for batch in train:
            order.append(batch.tolist())
            step += 1
            if evaluations and step % 50 == 0:
                evaluate()
        if evaluations:
            evaluate()
        yield order


@pytest.mark.parametrize(("order", "evaluations"), [("torch", False), ("lesson", True)])
def test_the_order_of_torchs_loader(order, evaluations):
    reference = lesson_orders(1045, 149, 8, 5, evaluations)
    for epoch, batches in enumerate(reference):
        assert make_batches([1] * 1045, batch_size=8, order=order, seed=123, epoch=epoch, drop_last=True) == batches


class Recorder(pl.LightningModule):
    """Writes down the rows of each batch, and a checkpoint at each point where one may be asked for."""

    def __init__(self, folder=None):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.rows, self.folder, self.saved = [], folder, []

    def training_step(self, batch):
        self.rows.append(batch.index.tolist())
        return self.layer(torch.ones(1, 1)).sum()

    def validation_step(self, batch):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def save(self, hook):
        if self.folder is not None and not self.trainer.sanity_checking:
            path = self.folder / f"{len(self.saved)}-{hook}.ckpt"
            self.trainer.save_checkpoint(path)
            self.saved.append((path, len(self.rows)))

    def on_train_batch_end(self, *_):
        self.save("batch")

    def on_validation_end(self):
        self.save("validation")

    def on_train_epoch_end(self):
        self.save("epoch")


def fit(module, folder, checkpoint=None):
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, loader(drop_last=True, rows=15), loader(order="sequential", rows=5), ckpt_path=checkpoint)
    return module.rows


@pytest.mark.filterwarnings("ignore:.*(does not have many workers|smaller than the logging interval|torch.jit|srun)")
def test_lightning_resumes_at_every_point(tmp_path, caplog):
    recorder = Recorder(tmp_path)
    whole = fit(recorder, tmp_path)
    expected = [batch for epoch in epochs(loader(drop_last=True, rows=15), 0, 3) for batch in epoch]
    assert whole == expected
    assert len(recorder.saved) == 9 + 3 + 3
    for path, seen in recorder.saved:
        assert fit(Recorder(), tmp_path, path) == whole[seen:], path.name
