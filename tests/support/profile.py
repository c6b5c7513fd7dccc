"""How much the tests draw: little in `make test`, more in `make test-long`."""

import os
from typing import Final

LONG: Final = os.environ.get("TEST_PROFILE") == "long"
EXAMPLES: Final = 300 if LONG else 40
"""of each test with hypothesis"""
PATIENCE_S: Final = 600.0 * float(os.environ.get("TEST_PATIENCE", "1"))
"""after which a test gives up on a process; far more than any needs, so that a busy machine fails nothing"""


def sized(short: int, long: int) -> int:
    """Return the number of draws of a simulation: `short` in `make test`, `long` in `make test-long`."""
    return long if LONG else short
