import pytest

from spamlit.data.batch import Example, Messages, collate

EXAMPLES = [Example([1, 2, 3], 1, 0), Example([4], 0, 1)]


@pytest.mark.parametrize(("length", "width"), [(None, 3), (3, 3), (5, 5)])
def test_collate_pads_on_the_right(length, width):
    batch = collate(EXAMPLES, pad_id=4, length=length)
    assert batch.tokens.shape == (2, width)
    for row, example in zip(range(2), EXAMPLES, strict=True):
        n = int(batch.lengths[row])
        assert batch.tokens[row, :n].tolist() == list(example.tokens)
        assert (batch.tokens[row, n:] == 4).all()
    assert batch.labels.tolist() == [1, 0]
    assert batch.index.tolist() == [0, 1]


def test_a_row_that_ends_in_the_pad_id_keeps_its_length():
    assert collate([Example([4, 4], 0, 0)], pad_id=4, length=3).lengths.tolist() == [2]


@pytest.mark.parametrize(("examples", "message"), [([], "at least one"), ([Example([], 0, 0)], "at least one token")])
def test_collate_refuses_nothing(examples, message):
    with pytest.raises(ValueError, match=message):
        collate(examples, pad_id=0)


def test_collate_does_not_truncate_silently():
    with pytest.raises(ValueError, match="3 tokens does not fit in a batch of length 2"):
        collate(EXAMPLES, pad_id=0, length=2)


def test_row_minus_one_is_the_filler():
    messages = Messages([[1], [2]], [0, 1], pad_id=9)
    batch = collate([messages[1], messages[-1]], pad_id=9)
    assert batch.labels.tolist() == [1, -100]
    assert batch.index.tolist() == [1, -1]
    assert batch.lengths.tolist() == [1, 1]
