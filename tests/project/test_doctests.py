"""The examples in the docstrings are run, whatever module they stand in.

pytest's own `--doctest-modules` would import the folders under other names (`checker`), and torch into every run.
"""

import doctest
from importlib import import_module

from support import ROOT


def test_the_examples_of_the_docstrings() -> None:
    for room in ["checker", "exporters", "thresholds"]:
        found = [path for path in sorted((ROOT / room).rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]
        assert found
        for path in found:
            name = ".".join(("robustcheck_onnx", *path.relative_to(ROOT).with_suffix("").parts))
            outcome = doctest.testmod(import_module(name.removesuffix(".__init__")))
            assert outcome.failed == 0 < outcome.attempted, name
