"""What a classifier has to beat: words and characters counted, on the very splits that spamlit trains on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import product
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.metrics import average_precision_score, f1_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_union
from sklearn.svm import LinearSVC

from spamlit.analysis.predicted import Predicted, predicted
from spamlit.analysis.scores import NATURAL, Array
from spamlit.data.splits import Splits

REGULARISATION = (0.3, 1.0, 3.0, 10.0)
"""C of the support vector machines."""
WEIGHTS = (None, "balanced")
"""Whether the rarer class weighs more in them."""
SMOOTHING = (0.03, 0.1, 0.3, 1.0)
"""α of naive Bayes."""
CHARACTERS = ("char_wb", "char")
"""Character n-grams within words (with a space at each end), or across them."""


Choice = TypeVar("Choice")


def majority(splits: Splits, seed: int) -> Predicted:
    """The more frequent class for every message, with its share in training as probability."""
    start = time.perf_counter()
    model = DummyClassifier().fit(np.zeros((len(splits.train), 1)), _spam(splits.train))
    return predicted(splits, lambda texts: model.predict_proba(np.zeros((len(texts), 1)))[:, 1], start)


def naive_bayes(splits: Splits, seed: int) -> Predicted:
    """Multinomial naive Bayes over counts of words; its smoothing chosen on validation."""
    start = time.perf_counter()
    words = CountVectorizer()
    train = words.fit_transform(splits.train["text"])
    validation = words.transform(splits.validation["text"])
    fitted = {alpha: MultinomialNB(alpha=alpha).fit(train, _spam(splits.train)) for alpha in SMOOTHING}
    alpha = choose(splits.validation, {a: model.predict_proba(validation)[:, 1] for a, model in fitted.items()})
    return predicted(
        splits, lambda texts: fitted[alpha].predict_proba(words.transform(texts))[:, 1], start, {"alpha": alpha}
    )


def tfidf_svm(splits: Splits, seed: int, *, characters: bool) -> Predicted:
    """TF-IDF (with logarithmic counts) and a linear support vector machine.

    C, the weights of the classes and the kind of character n-grams are chosen on validation. A probability is the
    sigmoid of the margin divided by a temperature, fitted on validation: margin 0, which decides, stays at 0.5.

    Args:
        splits: to train on and to predict.
        seed: of the machine's solver.
        characters: words and character 2- to 5-grams; else words alone.
    """
    start = time.perf_counter()
    candidates = {}
    for analyzer in CHARACTERS if characters else (None,):
        features = _features(analyzer)
        train = features.fit_transform(splits.train["text"])
        validation = features.transform(splits.validation["text"])
        for c, weight in product(REGULARISATION, WEIGHTS):
            model = LinearSVC(C=c, class_weight=weight, random_state=seed).fit(train, _spam(splits.train))
            candidates[analyzer, c, weight] = (features, model, model.decision_function(validation))
    choice = choose(splits.validation, {key: expit(margin) for key, (_, _, margin) in candidates.items()})
    features, model, margin = candidates[choice]
    temperature = margin_temperature(margin, _spam(splits.validation))
    return predicted(
        splits,
        lambda texts: expit(model.decision_function(features.transform(texts)) / temperature),
        start,
        dict(zip(("characters", "C", "class_weight"), choice, strict=True)) | {"temperature": temperature},
    )


def _features(analyzer: str | None) -> Any:
    words = TfidfVectorizer(sublinear_tf=True)
    if analyzer is None:
        return words
    return make_union(words, TfidfVectorizer(analyzer=analyzer, ngram_range=(2, 5), sublinear_tf=True))


def choose(validation: pd.DataFrame, probabilities: Mapping[Choice, Array]) -> Choice:
    """The choice with the highest F1 at the natural threshold on validation, then the highest AUPRC, then the first."""
    spam = _spam(validation)
    return max(
        probabilities,
        key=lambda choice: (
            f1_score(spam, probabilities[choice] >= NATURAL, zero_division=0.0),
            average_precision_score(spam, probabilities[choice]),
        ),
    )


def margin_temperature(margin: Array, spam: Array) -> float:
    """The T for which sigmoid(margin / T) has the lowest log loss.

    >>> round(margin_temperature(np.array([-1.0, -1.0, 1.0, 1.0]), np.array([0, 1, 1, 0])), 1) > 50
    True
    """
    signed = np.where(spam == 1, margin, -margin)
    found = minimize_scalar(
        lambda log_t: np.logaddexp(0, -signed / np.exp(log_t)).mean(), bounds=(-4, 4), method="bounded"
    )
    return float(np.exp(found.x))


def _spam(frame: pd.DataFrame) -> Any:
    return (frame["label"] == "spam").to_numpy(dtype=np.int64)
