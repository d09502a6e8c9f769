"""The `spamlit` command: a group that imports a subcommand's module only when that subcommand is used.

A subcommand is a module with a `command` (a `click.Command`) and a line in `COMMANDS`.
"""

import os

from spamlit.cli.group import LazyGroup

# Before torch is imported: threads that wait for each other sleep instead of spinning. On a machine that does something
# else besides, spinning made an epoch of small steps 8 times slower; on a quiet one it gains nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = ["COMMANDS", "main"]

# name: (module that holds `command`, line shown by `spamlit --help`)
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("spamlit.cli.train", "Fine-tune a backbone (the same as `python train.py`)."),
    "predict": ("spamlit.cli.predict", "Label messages with a trained classifier."),
    "compare": ("spamlit.cli.compare", "Tabulate the runs of a sweep, best validation F1 first."),
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
