"""Seeds of the fuzz harness for each kind of input, always the same; `make fuzz MINUTES=60` goes on for as long."""

import random
from pathlib import Path

import pytest

from support import PATIENCE_S

from .run import made, read, watch
from .targets import SELF_TEST, TARGETS, change_bytes, models

SLOW = {"verdict": 8, "command": 1}
"""whole checks, and processes: inputs of these kinds"""


def test_nothing_but_an_error_of_our_own(tmp_path: Path) -> None:
    for kind in TARGETS.keys() - {SELF_TEST, "command"}:
        folder = tmp_path / kind
        folder.mkdir()
        said = {seed: read(kind, made(kind, seed), folder) for seed in range(SLOW.get(kind, 50))}
        assert {seed: text for seed, text in said.items() if text.startswith("broke")} == {}, kind


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(TARGETS.keys() - {SELF_TEST}))
def test_nothing_but_an_error_of_our_own_in_processes(kind: str, tmp_path: Path) -> None:
    n = 20 * SLOW.get(kind, 50)
    counts, broke = watch(kind, 0, PATIENCE_S / 60, tmp_path, n)
    assert not broke
    assert counts.total() == n


def test_the_harness_sees_what_breaks(tmp_path: Path) -> None:
    """A reader that raises, and one that ends its process, in a real worker."""
    counts, broke = watch(SELF_TEST, 0, PATIENCE_S / 60, tmp_path, 3)
    assert counts == {"died": 2, "broke": 1}
    assert sum("ZeroDivisionError" in line for line in broke) == 1
    assert sum("died with -6" in line for line in broke) == len(list(tmp_path.iterdir())) - 1 == 2


def test_a_seed_makes_the_same_file_again() -> None:
    for kind in ("model", "png", "tar", "profile"):
        assert made(kind, 3) == made(kind, 3)
    assert any(made("model", seed) not in models() for seed in range(5))
    assert change_bytes(b"", random.Random(0), 3) == b""
