"""The surest mistakes come first; what is marked is the message, whole."""

import pandas as pd
import pytest
from tests.inference.test_explain import predictor

from spamlit.analysis.mistakes import DARKEST, Explainer, described, mistakes, pieces
from spamlit.inference.explain import Explanation, Word, cost

ROWS = pd.DataFrame(
    {
        "id": [1, 2, 3, 4],
        "label": ["ham", "spam", "spam", "ham"],
        "text": ["Win\n a prize", "see  you", "ok", "later"],
        "probability": [0.75, 0.2, 0.9, 0.6],
    }
)


def test_the_surest_come_first() -> None:
    assert mistakes(ROWS, 0.5)["id"].tolist() == [2, 1, 4]
    assert mistakes(ROWS, 0.7)["id"].tolist() == [2, 1]
    assert mistakes(ROWS, 0.1)["id"].tolist() == [1, 4]


def test_pieces_are_the_whole_message_the_weightiest_word_darkest() -> None:
    explanation = Explanation(" Win\n a prize!", (Word(1, 4, 2.0), Word(6, 7, -0.5)), 1.0, -0.5)
    found = pieces(explanation)
    assert "".join(piece.text for piece in found) == explanation.text
    assert [(p.text, p.score, p.shade) for p in found if p.score is not None] == [
        ("Win", 2.0, DARKEST),
        ("a", -0.5, pytest.approx(DARKEST / 4, abs=1e-3)),
    ]


def test_a_budget_explains_the_first_and_needs_no_classifier_for_none() -> None:
    of = predictor()
    wrong = mistakes(ROWS, 0.5)
    first = cost(of, "see  you")
    found = described(wrong, ROWS.head(0), Explainer(lambda: of, budget=first))
    assert [row["explanation"] is not None for row in found] == [True, False, False]
    assert [piece.text for piece in found[1]["pieces"]] == ["Win\n a prize"]
    assert all(row["explanation"] for row in described(wrong, ROWS.head(0), Explainer(lambda: of, budget=None)))

    dear = pd.DataFrame(
        {"id": [1, 2], "label": "ham", "text": ["see you there at eight " * 9, "see  you"], "probability": 0.9}
    )
    found = described(dear, ROWS.head(0), Explainer(lambda: of, budget=first))
    assert [row["explanation"] is not None for row in found] == [False, True]

    def never() -> None:
        raise AssertionError("loaded for nothing")

    assert described(wrong.head(0), ROWS, Explainer(never, budget=None)) == []  # type: ignore[arg-type]
