"""Each test runs in a folder of its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path) -> Iterator[None]:
    with contextlib.chdir(tmp_path):
        yield
