"""Packages that only long tests use: imported when a test first asks for something in them."""

from typing import Any

import pytest


class Lazy:
    """A package that stands at the top of a test's file and is not imported there; without it the test is skipped."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks each object of a file, such as for `__test__`
            raise AttributeError(attribute)
        return getattr(pytest.importorskip(self._name, reason="extra `export` is not installed"), attribute)


torch = Lazy("torch")
open_clip = Lazy("open_clip")
timm = Lazy("timm")
torchvision = Lazy("torchvision")
transformers = Lazy("transformers")
