from types import SimpleNamespace

import pytest
import torch
from tests.synthetic import byte_tokenizer, write_collection

from spamlit.data.datamodule import SMSDataModule

TOKENIZER = byte_tokenizer()


@pytest.fixture
def path(tmp_path):
    return write_collection(tmp_path / "sms", n_ham=60, n_spam=20)


@pytest.fixture
def make(path):
    def make(trainer=None, **options):
        module = SMSDataModule(**{"tokenizer": TOKENIZER, "source": path, "batch_size": 4} | options)
        module.trainer = trainer
        module.prepare_data()
        module.setup()
        return module

    return make


def rows(loader):
    return [row for batch in loader for row in batch.index.tolist()]


def test_the_training_split_decides_the_length(make):
    module = make(max_length="longest")
    longest = max(len(TOKENIZER.encode(text)) for text in module.texts("train"))
    assert module.max_length == longest
    for split in ("train", "validation", "test", "reserve"):
        for batch in module.eval_dataloader(split):
            assert batch.tokens.shape[1] == longest
            assert (batch.lengths >= 1).all()
        ids = [TOKENIZER.encode(text)[:longest] for text in module.texts(split)]
        assert [list(row) for row in module.ids(split)] == ids


@pytest.mark.parametrize(
    ("options", "length"),
    [({"max_length": 7}, 7), ({"max_length": "context", "context": 300}, 300), ({"context": 9}, 9)],
)
def test_other_lengths(make, options, length):
    module = make(**options)
    assert module.max_length == length
    assert next(iter(module.train_dataloader())).tokens.shape == (4, length)


def test_loaders_give_each_message_once_with_its_label(make):
    module = make(padding="longest", drop_last=False)
    loaders = {
        "train": module.train_dataloader(),
        "validation": module.val_dataloader(),
        "test": module.test_dataloader(),
    }
    for split, loader in loaders.items():
        assert sorted(rows(loader)) == list(range(len(module.texts(split))))
        for batch in loader:
            assert batch.tokens.shape[1] == batch.lengths.max()
            assert batch.labels.tolist() == [module.labels(split)[row] for row in batch.index.tolist()]
            for tokens, n, row in zip(batch.tokens, batch.lengths, batch.index, strict=True):
                assert tokens[:n].tolist() == list(module.ids(split)[row])
    assert module.labels("train").count(1) == (module.splits.train["label"] == "spam").sum()


def test_loaders_leave_the_global_generator_alone(make):
    module = make()
    before = torch.random.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader()):
        list(loader)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_evaluation_is_in_the_splits_order_or_longest_first(make):
    assert rows(make().test_dataloader()) == list(range(8))
    lengths = torch.cat([batch.lengths for batch in make(padding="longest", eval_batch_size=3).test_dataloader()])
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


def test_order_is_buckets_only_where_that_saves_padding(make):
    assert make().train_dataloader().batch_sampler.order == "shuffled"
    assert make(padding="longest").train_dataloader().batch_sampler.order == "buckets"
    assert make(padding="longest", order="torch").train_dataloader().batch_sampler.order == "torch"


def test_the_order_has_a_seed_of_its_own(make):
    a, b, c = (make(order_seed=seed) for seed in (None, 123, 4))
    assert rows(a.train_dataloader()) == rows(b.train_dataloader()) != rows(c.train_dataloader())
    assert a.texts("train") == c.texts("train")


def test_setup_twice_is_setup_once(make):
    module = make()
    splits = module.splits
    module.setup("fit")
    assert module.splits is splits


def test_class_weights(make):
    assert make().class_weights is None
    weights = make(balance="class_weights").class_weights
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([56 / (2 * 42), 56 / (2 * 14)])


def test_processes_share_the_rows(make):
    modules = [make(SimpleNamespace(global_rank=rank, world_size=2), padding="longest") for rank in (0, 1)]
    alone = make(padding="longest")
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        whole = [batch.index.tolist() for batch in getattr(alone, name)()]
        for batch, *parts in zip(whole, *(getattr(module, name)() for module in modules), strict=True):
            assert len({part.tokens.shape[0] for part in parts}) == 1
            shared = [row for part in parts for row in part.index.tolist() if row >= 0]
            assert sorted(shared) == sorted(batch)
            for part in parts:
                assert ((part.labels == -100) == (part.index == -1)).all()
    odd = make(SimpleNamespace(global_rank=0, world_size=3))
    with pytest.raises(ValueError, match=r"batch_size=4 .* divided by 3"):
        odd.train_dataloader()


def test_overfitting_sees_the_same_batches_in_every_epoch(make):
    loader = make(SimpleNamespace(global_rank=0, world_size=1, overfit_batches=1)).train_dataloader()
    first = rows(loader)
    loader.batch_sampler.set_epoch(1)
    assert rows(loader) == first


def test_a_table_of_ones_own(make, tmp_path):
    table = tmp_path / "mail.csv"
    lines = [f"{kind},{kind} number {word}\n" for kind in ("junk", "fine") for word in "abcdefghijklmnopqrst"]
    table.write_text("kind,body\n" + "".join(lines))
    module = make(source=table, text_column="body", label_column="kind", positive="junk")
    assert all(
        text.startswith("junk") == label
        for text, label in zip(module.texts("test"), module.labels("test"), strict=True)
    )


@pytest.fixture
def extra(tmp_path):
    rows = ["spam,Your toll is unpaid: settle it at www.roads.example.com/pay", f"ham,{'very ' * 60}long"]
    path = tmp_path / "extra.csv"
    path.write_text("label,text\n" + "\n".join(rows) + "\n")
    return str(path)


def test_additions_join_the_training_split_alone(make, extra):
    plain, more = make(), make(obfuscate=2, extra=[extra])
    for split in ("validation", "test", "reserve"):
        assert more.texts(split) == plain.texts(split)
    assert more.texts("train")[: len(plain.texts("train"))] == plain.texts("train")
    assert more.splits.origins() == {"source": 28, extra: 2, "disguised": 56}
    assert len(more.ids("train")) == len(more.labels("train")) == 86
    assert make(obfuscate=2, extra=[extra]).texts("train") == more.texts("train")
    assert make(obfuscate=2, extra=[extra], seed=4).texts("train") != more.texts("train")


def test_extra_messages_have_a_say_in_the_length_and_disguised_copies_have_none(make, extra):
    plain, disguised, longer = make(), make(obfuscate=4), make(obfuscate=1, extra=[extra])
    assert disguised.max_length == plain.max_length
    assert max(len(TOKENIZER.encode(text)) for text in disguised.texts("train")) > plain.max_length
    assert max(map(len, disguised.ids("train"))) == plain.max_length
    assert longer.max_length == len(TOKENIZER.encode("very " * 60 + "long"))


def test_class_weights_count_what_joined(make, extra):
    weights = make(balance="class_weights", obfuscate=1, extra=[extra]).class_weights
    assert weights.tolist() == pytest.approx([114 / (2 * 85), 114 / (2 * 29)])


def test_normalised_ids_of_texts_as_they_were(make, tmp_path):
    """Splits are those of the texts as they were, so that runs with and without it can be compared."""
    disguised = tmp_path / "disguised"
    disguised.write_text(make().path.read_text().translate({ord("e"): 0x435, ord("E"): 0x415, ord("o"): "o\u200b"}))
    raw, read = make(source=disguised), make(source=disguised, normalise="unicode")
    assert read.texts("test") == raw.texts("test")
    assert read.splits.test["id"].tolist() == make().splits.test["id"].tolist()
    assert [list(ids) for ids in read.ids("test")] == [list(ids) for ids in make().ids("test")]
    assert read.max_length < raw.max_length
    assert read.encode("fr\u0435e") == TOKENIZER.encode("free")


def test_copies_wear_no_disguise_that_is_taken_off_again(make):
    module = make(obfuscate=3, normalise="unicode")
    copies = module.splits.train[module.splits.train["origin"] == "disguised"]
    own = {tuple(module.encode(text)) for text in module.texts("train")[:28]}
    assert not any(tuple(module.encode(text)) in own for text in copies["text"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "none"}, "data.padding=none is not known; choose from fixed, longest"),
        ({"order": "random"}, "data.order=random is not known; choose from auto"),
        ({"max_length": "long"}, "choose from longest, context, a number"),
        ({"max_length": 2000, "context": 1024}, "data.max_length=2000 is longer .* context of 1024"),
        ({"max_length": "context"}, "needs to know the backbone's context"),
        ({"max_length": 0}, "1 token or more"),
        ({"batch_size": 0}, "data.batch_size=0"),
        ({"batch_size": 100}, "leaves no batch of 28 training messages"),
        ({"text_column": "body"}, "missing: data.label_column"),
        ({"source": "no/such/file"}, "data.source=no/such/file is not a file"),
        ({"split": "gruoped"}, "data.split=gruoped"),
        ({"normalise": "nfkc"}, "data.normalise=nfkc is not known; choose from none, unicode"),
        ({"obfuscate": -1}, "data.obfuscate=-1"),
        ({"extra": ["no/such/file"]}, "data.extra: no/such/file"),
    ],
)
def test_bad_options(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.assets
def test_the_lessons_batches():
    """The lesson's data, batch for batch: its splits, its length, its padding, its order."""
    module = SMSDataModule(tokenizer="gpt2", split="random", order="torch", seed=123, context=1024)
    module.prepare_data()
    module.setup()
    assert [len(module.texts(split)) for split in ("train", "validation", "test")] == [1045, 149, 300]
    assert module.max_length == 120
    texts, labels = module.texts("train"), module.labels("train")
    padded = [(ids + [50256] * 120)[:120] for ids in module.tokenizer.encode_batch(texts)]
    torch.manual_seed(123)
    data = list(zip(torch.tensor(padded), torch.tensor(labels), strict=True))
    published = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, drop_last=True)
    for batch, (tokens, targets) in zip(module.train_dataloader(), published, strict=True):
        assert torch.equal(batch.tokens, tokens)
        assert torch.equal(batch.labels, targets)


@pytest.mark.assets
@pytest.mark.parametrize("tokenizer", ["smollm2", "gpt2"])
def test_the_default_data(tokenizer):
    module = SMSDataModule(tokenizer=tokenizer, padding="longest", context=1024)
    module.setup()
    assert module.splits.counts()["train"] == {"ham": 425, "spam": 425}
    real = sum(len(ids) for ids in module.ids("train"))
    batches = list(module.train_dataloader())
    assert len(batches) == 106
    assert sum(batch.tokens.numel() for batch in batches) < 1.15 * real
