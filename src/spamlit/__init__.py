"""Fine-tune pretrained GPTs into spam classifiers.

`import spamlit` is cheap on purpose: no torch, no pandas. What needs them is imported when it is first used:

    >>> import spamlit
    >>> spamlit.__version__
    '0.1.0'
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spamlit.inference.predictor import Predictor

__all__ = ["STARTED", "Predictor", "__version__"]
__version__ = "0.1.0"

STARTED = time.monotonic()
"""When this process began, as near as Python can tell: a run counts its start-up too."""


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        return import_module("spamlit.inference.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
