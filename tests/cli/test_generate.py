"""`spamlit generate`: text from a backbone before its head is replaced."""

import pytest
from click.testing import CliRunner, Result
from tests.synthetic import byte_tokenizer

from spamlit.cli import main
from spamlit.model.gpt import CONFIGS, GPTConfig


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tiny`, with the ids that the tokenizer without files has."""
    small = GPTConfig("tiny", 265, 64, n_layer=2, n_head=2, n_kv_head=2, n_embd=16, n_inner=32)
    monkeypatch.setitem(CONFIGS, "tiny", small)
    monkeypatch.setattr("spamlit.data.tokenizer.load_tokenizer", lambda name: byte_tokenizer())


def generated(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["generate", *arguments])


def text(*arguments: str) -> str:
    done = generated("--backbone", "tiny", "--weights", "random", "--max-new-tokens", "20", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_it_continues_the_prompt_the_same_way_each_time(tiny: None) -> None:
    assert text("You won") == text("You won")
    assert text("You won").startswith("You won")
    assert len(text("You won")) > len("You won\n")


def test_sampling_follows_the_seed(tiny: None) -> None:
    hot = [text("--temperature", "2", "--seed", seed, "You won") for seed in ("0", "0", "1")]
    assert hot[0] != text("You won")
    assert len(set(hot)) == 2  # the seed is of the random weights, too


def test_the_likeliest_token_alone_is_greedy(tiny: None) -> None:
    assert text("--temperature", "2", "--top-k", "1", "You won") == text("You won")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backbone", "gpt5", "hi"], "backbone=gpt5: choose one of gpt2"),
        (["--backbone", "tiny", "hi"], "backbone.weights=random"),
        (["--backbone", "tiny", "--weights", "random", "x" * 60], "exceed the context of tiny, 64"),
        (["--temperature", "-1", "hi"], "not in the range"),
        (["--top-k", "0", "hi"], "not in the range"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_is_refused(tiny: None, arguments: list[str], said: str) -> None:
    done = generated(*arguments)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.assets
def test_the_real_model_knows_paris() -> None:
    done = generated("--max-new-tokens", "2", "The capital of France is")
    assert done.stdout == "The capital of France is Paris.\n"


@pytest.mark.assets
def test_asked_for_spam_the_pretrained_model_begins_both_answers_with_yes() -> None:
    """The lesson's prompting experiment, on one message of either kind."""
    question = "Is the following text 'spam'? Answer with 'yes' or 'no':"
    spam = "'You are a winner you have been specially selected to receive 1000 cash or a 2000 award.'"
    for message in (spam, "'Are we still meeting for dinner tonight?'"):
        said = generated("--max-new-tokens", "12", f"{question} {message}").stdout
        assert "Yes" in said.removeprefix(f"{question} {message}")
