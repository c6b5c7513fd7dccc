"""The examples in the docstrings are run, whatever module they stand in.

pytest's own `--doctest-modules` would import the folders under other names (`checker`), and torch into every run.
"""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

from support import ROOT

WITH_EXAMPLES = [
    ".".join(("robustcheck_onnx", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for room in ("checker", "exporters", "thresholds")
    for path in sorted((ROOT / room).rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_of_the_docstrings(module: str) -> None:
    outcome = doctest.testmod(import_module(module))
    assert outcome.failed == 0
    assert outcome.attempted > 0


def test_there_are_examples_in_all_three_packages() -> None:
    assert {name.split(".")[1] for name in WITH_EXAMPLES} == {"checker", "exporters", "thresholds"}
