"""Classifiers for other software: a folder for `transformers`, or an ONNX model, checked before it has its name.

formats.py     the command's work: build, check, publish
hub.py         GPT2ForSequenceClassification, LlamaForSequenceClassification
onnx_model.py  ONNX, float32 or int8
tokenizer.py   tokenizer.json for `tokenizers`, with our ids
check.py       the same ids and probabilities as the Predictor's, at several shapes
card.py        MODEL_CARD.md of an export
"""

from spamlit.inference.export.check import ExportError
from spamlit.inference.export.formats import FORMATS, Exported, export

__all__ = ["FORMATS", "ExportError", "Exported", "export"]
