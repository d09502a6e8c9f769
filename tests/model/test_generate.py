"""Generation: the cache of keys and values changes nothing, and the choices are those asked for."""

import pytest
import torch

from spamlit.model import generate as module
from spamlit.model.generate import continued_logits, generate, generate_many, read_prompt


def greedy_without_cache(model, ids, count):
    tokens = list(ids)
    for _ in range(count):
        tokens.append(int(model.logits(model(torch.tensor([tokens])))[0, -1].argmax()))
    return tokens[len(ids) :]


def test_greedy_equals_running_everything_again(config, random_gpt):
    model = random_gpt(config)
    assert generate(model, [5, 9, 2], 12) == greedy_without_cache(model, [5, 9, 2], 12)


def test_sampling_repeats_with_its_generator_and_keeps_to_top_k(config, random_gpt):
    model = random_gpt(config)

    def sample(seed, **choices):
        return generate(model, [5, 9], 20, generator=torch.Generator().manual_seed(seed), **choices)

    assert sample(0, temperature=1.0) == sample(0, temperature=1.0) != sample(1, temperature=1.0)
    assert sample(0, temperature=3.0, top_k=1) == generate(model, [5, 9], 20)


def test_continuations_of_one_prompt_are_what_they_are_alone(config, random_gpt):
    model = random_gpt(config)
    past = read_prompt(model, [5, 9, 2])
    rows = [[7], [4, 8, 6, 1], [3, 3]]
    tokens = torch.tensor([row + [0] * (4 - len(row)) for row in rows])
    for _ in range(2):  # the prompt stays as it is
        found = continued_logits(model, past, tokens, torch.tensor([len(row) for row in rows]))
        for row, logits in zip(rows, found, strict=True):
            alone = model.logits(model(torch.tensor([[5, 9, 2, *row]])))[0, -1]
            torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


def test_stop_ids_end_the_text_and_are_left_out(config, random_gpt):
    model = random_gpt(config)
    text = generate(model, [5, 9, 2], 12)
    assert generate(model, [5, 9, 2], 12, stop_ids={text[4]}) == text[: text.index(text[4])]


def test_rows_go_on_alone_when_others_have_ended(config, random_gpt, monkeypatch):
    model, prompt, end = random_gpt(config), [5, 9, 2], 96
    script = [[7, 1, 3, 8, end], [4, end], [6, 6, 2, end], [end], [2, 5, 5, 1, 9, 3]]
    live = [0, 1, 2, 3, 4]
    seen = []

    def scripted(logits, *_):
        step = len(seen)
        live[:] = [i for i in live if len(script[i]) > step]
        seen.append((list(live), logits))
        return torch.tensor([script[i][step] for i in live])

    monkeypatch.setattr(module, "_choose", scripted)
    rows = generate_many(model, prompt, 6, 5, temperature=1.0, stop_ids={end})
    assert rows == [[token for token in row if token != end] for row in script]
    for step, (numbers, logits) in enumerate(seen):
        for i, found in zip(numbers, logits, strict=True):
            alone = model.logits(model(torch.tensor([prompt + script[i][:step]])))[0, -1]
            torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)


def test_rows_of_one_prompt_differ_where_they_are_sampled(config, random_gpt):
    model = random_gpt(config)
    assert generate_many(model, [5, 9], 8, 3) == [generate(model, [5, 9], 8)] * 3
    sampled = generate_many(model, [5, 9], 8, 3, temperature=1.0, generator=torch.Generator().manual_seed(0))
    assert len({*map(tuple, sampled)}) == 3


@pytest.mark.parametrize(
    ("ids", "choices", "message"),
    [
        ([], {}, "at least one token"),
        ([1], {"temperature": -1.0}, "temperature=-1.0"),
        ([1], {"top_k": 0}, "top_k=0"),
        ([1] * 48, {}, r"48 \+ 3 tokens exceed the context"),
    ],
)
def test_bad_requests_are_refused(config, random_gpt, ids, choices, message):
    with pytest.raises(ValueError, match=message):
        generate(random_gpt(config), ids, 3, **choices)
