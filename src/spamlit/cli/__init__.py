"""The `spamlit` command: a group that imports a subcommand's module only when that subcommand is used.

A subcommand is a module with a `command` (a `click.Command`) and a line in `COMMANDS`.
"""

import os

from spamlit.cli.group import LazyGroup

# Before torch is imported: threads that wait for each other spin for about a tenth of a millisecond, then sleep. By
# default they spin on, which made small steps 8 times slower on a machine that did something else besides; threads that
# sleep at once made them half as slow again on a quiet one (docs/log.md).
os.environ.setdefault("GOMP_SPINCOUNT", "100000")

__all__ = ["COMMANDS", "main"]

# name: (module that holds `command`, line shown by `spamlit --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("spamlit.cli.train", "Fine-tune a backbone (the same as `python train.py`)."),
    "predict": ("spamlit.cli.predict", "Label messages with a trained classifier."),
    "evaluate": ("spamlit.cli.evaluate", "Measure a classifier on labelled messages, and explain its mistakes."),
    "export": ("spamlit.cli.export", "Write a classifier for transformers or as ONNX, checked to say the same."),
    "serve": ("spamlit.cli.serve", "Answer over HTTP, with a page to try the classifier."),
    "compare": ("spamlit.cli.compare", "Tabulate the runs of a sweep, best validation F1 first."),
    "ablation": ("spamlit.cli.ablation", "Set the runs of the published ablation table beside its figures."),
    "results": ("spamlit.cli.results", "Compare all systems on the same splits, and write docs/results*.md."),
    "generate": ("spamlit.cli.generate", "Continue a prompt with a pretrained backbone."),
    "fetch": ("spamlit.cli.fetch", "Download and verify data, tokenizers and weights ahead of time."),
    "cache": ("spamlit.cli.cache", "List or clear what spamlit keeps on disk."),
}

main = LazyGroup(
    name="spamlit",
    subcommands=COMMANDS,
    help="Fine-tune pretrained GPTs into spam classifiers, and use them.",
    epilog="SPAMLIT_DEBUG=1 shows the traceback of an error; SPAMLIT_CACHE moves the cache.",
)
