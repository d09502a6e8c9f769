"""The challenge set: messages that look like nothing in the SMS Spam Collection, and what a classifier makes of them.

The collection is chat and premium-rate spam of the 2000s from Britain and Singapore; a good score on it is not yet a
good filter. `resources/challenge.csv` holds 626 messages in the manner of people and institutions of 2015 to 2026: ham
that looks like spam (`LOOKALIKES`, 45 %), chat (14 %) and thirteen kinds of spam (`SPAM`, 41 %), in five varieties of
English and, here and there, other languages.

How it was made: a language model wrote the messages for this project, one by one, without templates or a corpus to copy
from and without seeing the supplement for training. Persons, codes and link addresses are invented, telephone numbers
reserved for fiction, masked or made up; brands that scams imitate are named. Labels are the writer's intent and were
not checked by a second reader. A few openers (`wrong_number`, `hi_mum`) are spam only to someone who knows that the
sender is a stranger. Shares say nothing of how frequent such messages are.

Half of each category, drawn once at random and balanced over the varieties, is `dev`: look at it, choose by it. The
other half is `final`, for `make results` alone: not while a recipe is chosen, not to explain one. Its figures were
printed more than once before the recipe was what it is (docs/log.md counts); nothing was chosen by them. In the file
`dev` comes first, so that who opens it meets `final` last.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

Half = Literal["dev", "final"]
LOOKALIKES = (
    "one_time_code",
    "bank_alert",
    "delivery_notice",
    "appointment",
    "prescription",
    "school",
    "employer",
    "promotion",
    "carrier_notice",
)
"""Ham that looks like spam: all ham but chat."""
SPAM = (
    "parcel_fee",
    "toll_tax",
    "bank_phishing",
    "wallet_phishing",
    "crypto",
    "job_scam",
    "loan",
    "gambling",
    "wrong_number",
    "hi_mum",
    "account_lock",
    "prize",
    "tech_support",
)
CATEGORIES = (*LOOKALIKES, "chat", *SPAM)
VARIETIES = ("british", "american", "indian", "singaporean", "african", "other")


def load_challenge(half: Half) -> pd.DataFrame:
    """One half of the packaged set, a message frame with two more columns.

    `final` is for `make results` alone; everything else takes `dev` (see the module).

    Args:
        half: `dev` or `final`.

    Returns:
        Columns ``id`` (int, unique over both halves), ``label`` (``"ham"`` or ``"spam"``), ``category`` (one of
        `CATEGORIES`), ``variety`` (one of `VARIETIES`), ``text``.

    Raises:
        ValueError: There is no such half.

    >>> load_challenge("dev").groupby("label").size().to_dict()
    {'ham': 185, 'spam': 128}
    """
    if half not in get_args(Half):
        raise ValueError(f"the challenge set has no half {half!r}; choose from {', '.join(get_args(Half))}")
    with (files("spamlit") / "resources" / "challenge.csv").open(encoding="utf-8") as stream:
        frame = pd.read_csv(stream, keep_default_na=False)
    return frame[frame["half"] == half].drop(columns="half").reset_index(drop=True)


def challenge_scores(frame: pd.DataFrame, probability: ArrayLike, threshold: float) -> dict[str, float]:
    """What a classifier makes of challenge messages, as one flat object of numbers.

    Args:
        frame: rows of `load_challenge`, of both labels, with look-alikes and chat among the ham.
        probability: of spam, 0 to 1, one for each row.
        threshold: least probability that counts as spam.

    Returns:
        ``balanced_accuracy`` (mean of recall and the share of ham let through), ``recall``, ``fpr`` (all ham),
        ``lookalike_fpr`` and ``chat_fpr`` (its two parts), and ``errors/<name>``: wrong messages, a count, for each
        category and each variety of the frame.

    Raises:
        ValueError: Not one probability for each row, a probability that is no number from 0 to 1, or a frame without
            one of the three kinds of message.
    """
    p = np.asarray(probability, dtype=float)
    if p.shape != (len(frame),):
        raise ValueError(f"{len(frame)} messages need as many probabilities, got an array of shape {p.shape}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"probabilities are numbers from 0 to 1, got {p[~((p >= 0) & (p <= 1))][0]}")
    flagged = pd.Series(p >= threshold, index=frame.index)
    spam, chat = frame["label"] == "spam", frame["category"] == "chat"
    kinds = {"spam": spam, "chat": chat, "look-alike ham": ~spam & ~chat}
    if missing := [kind for kind, rows in kinds.items() if not rows.any()]:
        raise ValueError(f"the frame holds no {' and no '.join(missing)}; score a whole half of the challenge set")
    recall, fpr = float(flagged[spam].mean()), float(flagged[~spam].mean())
    wrong = flagged != spam
    errors = pd.concat([wrong.groupby(frame[by], sort=False).sum() for by in ("category", "variety")])
    return {
        "balanced_accuracy": (recall + 1 - fpr) / 2,
        "recall": recall,
        "fpr": fpr,
        "lookalike_fpr": float(flagged[kinds["look-alike ham"]].mean()),
        "chat_fpr": float(flagged[chat].mean()),
    } | {f"errors/{name}": int(count) for name, count in errors.items()}
