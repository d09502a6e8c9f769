"""Generation: the cache of keys and values changes nothing, and the choices are those asked for."""

import pytest
import torch

from spamlit.model.generate import continued_logits, generate, read_prompt


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
