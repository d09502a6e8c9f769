"""Every message through our Predictor."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common import since_start, tell

from spamlit import Predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True)
    parser.add_argument("--messages", type=Path, required=True, help="JSON list of texts")
    parser.add_argument("--out", required=True)
    parser.add_argument("--head", type=int, help="only so many messages")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON object of options of Predictor.load")
    given = parser.parse_args()

    texts = json.loads(given.messages.read_text())[: given.head]
    predictor = Predictor.load(given.run, **given.options)
    startup = since_start()
    answers = predictor.classify(texts)
    spam = [answer.probability for answer in answers]
    tell(given.out, startup=startup, ended=since_start(), probabilities=spam)


if __name__ == "__main__":
    main()
