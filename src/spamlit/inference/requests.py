"""What the server is asked, from bytes to texts, and the limits it keeps. Knows nothing of HTTP but status numbers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spamlit.data.sms import LABELS

SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Limits:
    """What the server refuses, so that its memory and its answers' delay are bounded."""

    body: int = 256 * 1024
    """bytes of a request's body"""
    texts: int = 1_000
    """texts of a request"""
    characters: int = 10_000
    """characters of a text; what the classifier does not read of a shorter one gets the flag `truncated`"""
    queue: int = 2_000
    """texts that are being classified or wait for it, of all requests"""
    requests: int = 512
    """requests at once"""
    explanations: int = 4
    """explanations at once: each is worth hundreds of texts"""
    explained: int = 20_000
    """tokens that the model may read for one explanation"""


class RequestError(ValueError):
    """A request that gets another answer than the one it asked for.

    Attributes:
        status: HTTP's number for it.
        headers: that the answer has besides.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.headers = status, dict(headers or {})


@dataclass(frozen=True)
class Work:
    """What a worker is asked: to classify some texts, or to explain the only one."""

    texts: list[str] = field(repr=False)
    explain: bool = False


def parse(body: bytes, *keys: str) -> dict[str, Any]:
    """The JSON object of a body, which has these keys and no others.

    Raises:
        RequestError: it has not.

    >>> parse(b'{"text": "hi"}', "text")
    {'text': 'hi'}
    """
    shape = "{" + ", ".join(f'"{key}": …' for key in keys) + "}"
    try:
        content = json.loads(body.decode("utf-8"))
    except RecursionError:
        raise RequestError(400, f"the body nests too deeply; expected {shape}") from None
    except ValueError as error:  # of JSON, of UTF-8, of a number with thousands of digits
        raise RequestError(400, f"the body is not JSON: {error}; expected {shape}") from None
    if not isinstance(content, dict):
        raise RequestError(422, f"the body is {_kind(content)}; expected {shape}")
    if missing := [key for key in keys if key not in content]:
        raise RequestError(422, f"the body has no {', '.join(missing)}; expected {shape}")
    if unknown := sorted(content.keys() - set(keys)):
        raise RequestError(422, f"the body has unknown keys, such as {unknown[0][:40]!a}; expected {shape}")
    return content


def check_texts(texts: object, limits: Limits) -> list[str]:
    """The texts, if they are a list of such.

    Raises:
        RequestError: they are not, or there are too many.
    """
    if not isinstance(texts, list):
        raise RequestError(422, f"texts is {_kind(texts)}; expected a list of strings")
    if len(texts) > limits.texts:
        raise RequestError(422, f"{len(texts)} texts; send at most {limits.texts} in a request")
    return [check_text(text, f"texts[{i}]", limits) for i, text in enumerate(texts)]


def check_text(text: object, name: str, limits: Limits) -> str:
    """The text, if it is one that can be encoded.

    Raises:
        RequestError: it is something else, too long, or has half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise RequestError(422, f"{name} is {_kind(text)}; expected a string")
    if len(text) > limits.characters:
        raise RequestError(422, f"{name} has {len(text)} characters; send at most {limits.characters}")
    if half := SURROGATE.search(text):
        raise RequestError(
            422, f"{name} is not Unicode text: character {half.start()} is U+{ord(half[0]):04X}, half of a pair"
        )
    return text


def check_label(label: object) -> str:
    """The label, if it is one.

    Raises:
        RequestError: it is not.
    """
    if label not in LABELS:
        shown = repr(label[:40]) if isinstance(label, str) else _kind(label)
        raise RequestError(422, f"label is {shown}; choose one of {', '.join(LABELS)}")
    return str(label)


def _kind(value: object) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
