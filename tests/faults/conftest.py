"""What the commands' tests have: a working folder with a small collection, processes that do not outlive their test."""

from tests.cli.conftest import folder, start

__all__ = ["folder", "start"]
