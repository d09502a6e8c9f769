"""`python -m spamlit` is the `spamlit` command."""

from spamlit.cli import main

main(prog_name="spamlit")
