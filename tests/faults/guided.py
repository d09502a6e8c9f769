"""One check of test_fuzz, guided by coverage (needs atheris).

python -m tests.faults.guided test_archives -runs=20000
"""

import sys

if __name__ == "__main__":
    import atheris

    with atheris.instrument_imports(include=["spamlit"]):
        from tests.faults import test_fuzz

    atheris.Setup([sys.argv[0], *sys.argv[2:]], getattr(test_fuzz, sys.argv[1]).from_bytes)
    atheris.Fuzz()
