"""A short run of the fuzz harness over each kind of input; `make fuzz MINUTES=60` is the long one."""

from __future__ import annotations

import random
from pathlib import Path

import onnx
import pytest

from .mutate import change_bytes
from .run import made, watch
from .targets import SELF_TEST, TARGETS, models

SECONDS = 2.0  # a kind; a worker takes one to start


@pytest.mark.parametrize("kind", [kind for kind in TARGETS if kind != SELF_TEST])
def test_nothing_but_an_error_of_our_own(kind: str, tmp_path: Path) -> None:
    counts, broke = watch(kind, 0, SECONDS / 60, tmp_path)
    assert not broke
    assert counts.total() >= 1


def test_the_harness_sees_what_breaks(tmp_path: Path) -> None:
    """A reader that raises, and one that ends its process, in a real worker."""
    counts, broke = watch(SELF_TEST, 0, 4.0 / 60, tmp_path)
    assert counts["broke"] >= 1
    assert counts["died"] >= 1
    assert any("ZeroDivisionError" in line for line in broke)
    assert any("died by signal 6" in line for line in broke)
    assert len(list(tmp_path.iterdir())) >= 2


def test_a_seed_makes_the_same_file_again() -> None:
    for kind in ("model", "png", "tar", "profile"):
        assert made(kind, 3) == made(kind, 3)
    assert any(made("model", seed) not in models() for seed in range(5))
    assert onnx.load_from_string(models()[0]).graph.node
    assert change_bytes(b"", random.Random(0), 3) == b""
