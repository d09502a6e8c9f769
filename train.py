"""python train.py [overrides] — the same as `spamlit train [overrides]`."""

from spamlit.cli.train import main

if __name__ == "__main__":
    main()
