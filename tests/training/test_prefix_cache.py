"""The store of frozen activations: right, whole, bounded, and it heals."""

import multiprocessing

import numpy as np
import pytest
import torch

from spamlit.model.classifier import Classifier
from spamlit.model.gpt import CONFIGS, GPT
from spamlit.training import prefix_cache
from spamlit.training.prefix_cache import PrefixCache
from spamlit.training.prefix_folders import evict, stores

MESSAGES = [list(range(1, n)) for n in (3, 4, 4, 9, 17, 30)] + [[7, 8, 9]] * 2


def make_classifier(trainable="last_block", pooling="last_nonpad"):
    classifier = Classifier(GPT.random(CONFIGS["tiny"].cut(2)), pooling=pooling).eval()
    classifier.set_trainable(trainable)
    return classifier


def make_cache(root, classifier, **options):
    pooled = classifier.boundary > 2
    options = {"pooled": pooled, "root": root, **options}
    return PrefixCache({"weights": "w"}, classifier.prefix, **options)


def batch_of(messages, width=None):
    lengths = torch.tensor([len(ids) for ids in messages])
    tokens = torch.zeros(len(messages), width or int(lengths.max()), dtype=torch.long)
    for row, ids in zip(tokens, messages, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    return tokens, lengths


@pytest.mark.parametrize("trainable", ["head", "last_block"])
def test_gives_what_the_live_prefix_gives(tmp_path, trainable):
    classifier = make_classifier(trainable)
    cache = make_cache(tmp_path, classifier)
    cache.fill(MESSAGES, progress=False)
    tokens, lengths = batch_of(MESSAGES[2:5])
    with torch.no_grad():
        cached = classifier.suffix(cache(tokens, lengths), lengths)
        live = classifier(tokens, lengths)
    torch.testing.assert_close(cached, live, rtol=1e-5, atol=1e-6)


def test_computes_each_distinct_message_once(tmp_path):
    classifier = make_classifier()
    first = make_cache(tmp_path, classifier)
    first.fill(MESSAGES, progress=False)
    assert first.computed == len({tuple(ids) for ids in MESSAGES})
    second = make_cache(tmp_path, classifier)
    second.fill([*MESSAGES, [40, 41]], progress=False)
    assert second.computed == 1


def test_padded_rows_are_messages_of_their_own(tmp_path):
    classifier = make_classifier(pooling="last")
    cache = make_cache(tmp_path, classifier, padded=True)
    tokens, lengths = batch_of(MESSAGES[:3], width=12)
    cache.fill(tokens.tolist(), progress=False)
    torch.testing.assert_close(cache(tokens, lengths), classifier.prefix(tokens, lengths), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_stored_as_it_is(tmp_path):
    classifier = make_classifier()
    cache = make_cache(tmp_path, classifier, dtype=torch.bfloat16)
    cache.fill(MESSAGES, progress=False)
    tokens, lengths = batch_of(MESSAGES[:1])
    assert torch.equal(cache(tokens, lengths), classifier.prefix(tokens, lengths).bfloat16())


@pytest.mark.fault("corruption", "prefix cache, shard and index")
@pytest.mark.parametrize("where", ["values.npy", "index.npz"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_shard_is_computed_again(tmp_path, where, damage):
    classifier = make_classifier()
    cache = make_cache(tmp_path, classifier)
    cache.fill(MESSAGES, progress=False)
    tokens, lengths = batch_of(MESSAGES)
    sound = cache(tokens, lengths)
    (file,) = tmp_path.glob(f"*/*.shard/{where}")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
    elif damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    healed = make_cache(tmp_path, classifier)
    healed.fill(MESSAGES, progress=False)
    assert healed.computed == len({tuple(ids) for ids in MESSAGES})
    assert torch.equal(healed(tokens, lengths), sound)


def test_a_killed_fill_leaves_whole_shards_and_the_rest_comes_out_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(prefix_cache, "SHARD_TOKENS", 20)
    classifier = make_classifier()
    whole = make_cache(tmp_path / "whole", classifier)
    whole.fill(MESSAGES, progress=False)
    killed = make_cache(tmp_path / "killed", classifier)
    calls = iter(range(100))

    def dying(tokens, lengths):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return classifier.prefix(tokens, lengths)

    killed.compute = dying
    with pytest.raises(KeyboardInterrupt):
        killed.fill(MESSAGES, progress=False)
    again = make_cache(tmp_path / "killed", classifier)
    again.fill(MESSAGES, progress=False)
    assert 0 < again.computed < whole.computed
    assert not list(tmp_path.rglob("*.part"))
    tokens, lengths = batch_of(MESSAGES)
    assert torch.equal(again(tokens, lengths), whole(tokens, lengths))


def test_least_recently_used_stores_go_first(tmp_path):
    classifier = make_classifier()
    for name in ("old", "new"):
        cache = PrefixCache({"weights": name}, classifier.prefix, pooled=False, root=tmp_path)
        cache.fill(MESSAGES, progress=False)
        if name == "old":
            about = cache.folder / "about.json"
            import os

            os.utime(about, (1, 1))
    sizes = [size for _, _, size, _ in stores(tmp_path)]
    removed = evict(tmp_path, limit_bytes=sizes[0])
    assert len(removed) == 1
    assert [key["weights"] for _, key, _, _ in stores(tmp_path)] == ["new"]


def test_values_kept_on_the_device_are_the_same(tmp_path):
    classifier = make_classifier()
    mapped, resident = make_cache(tmp_path, classifier), make_cache(tmp_path, classifier, device="cpu")
    for cache in (mapped, resident):
        cache.fill(MESSAGES, progress=False)
    assert torch.equal(resident(*batch_of(MESSAGES)), mapped(*batch_of(MESSAGES)))


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match="values"):
        make_cache(tmp_path, make_classifier()).fill(MESSAGES, progress=False)
    monkeypatch.undo()
    cache = make_cache(tmp_path, make_classifier())
    cache.fill(MESSAGES, progress=False)
    assert not list(tmp_path.rglob("*.part"))


def test_an_unknown_message_is_an_error(tmp_path):
    cache = make_cache(tmp_path, make_classifier())
    cache.fill(MESSAGES, progress=False)
    with pytest.raises(KeyError):
        cache(*batch_of([[99]]))


def _fill(root, queue):
    cache = make_cache(root, make_classifier())
    cache.fill(MESSAGES, progress=False)
    queue.put((cache.computed, float(np.sum(cache(*batch_of(MESSAGES)).numpy()))))


def test_processes_share_one_computation(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_fill, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert sum(computed for computed, _ in results) == len({tuple(ids) for ids in MESSAGES})
    assert len({total for _, total in results}) == 1
