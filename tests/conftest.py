"""What all tests share. Markers are in pyproject.toml; the cache of assets is the user's own (`SPAMLIT_CACHE`)."""

import os

import hypothesis

os.environ.setdefault("GOMP_SPINCOUNT", "100000")  # before torch is imported: as the command does

# The machine may be busy: a slow example is no failure, and a failure comes with the blob that repeats it.
hypothesis.settings.register_profile("spamlit", deadline=None, print_blob=True)
hypothesis.settings.load_profile("spamlit")
