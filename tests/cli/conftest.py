"""The command line in this process, which most tests of it need."""

from __future__ import annotations

import pytest

from support.bad_input import Typed


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str]) -> Typed:
    """Type a command line in this process: `typed(folder, *words, **environment)`."""
    return Typed(capfd)
