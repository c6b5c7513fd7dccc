"""The answers about sizes: each name counted once, each fault with its own name; the libraries are stood in for."""

from __future__ import annotations

from collections import Counter

import pytest

from robustcheck_onnx.exporters import sizes

NUMBERS = {"rn50": (38, 25), "vit": (86, 86)}


def test_each_name_is_counted_once_and_each_answer_is_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: Counter[tuple[str, str]] = Counter()

    def unknown(source: str, name: str, tag: str | None) -> str:
        if source == "torchvision":
            raise ImportError(name="torchvision")
        return f"no {tag}" if tag == "wrong" else ""

    def count(source: str, name: str) -> tuple[int, int] | str:
        counted[source, name] += 1
        return NUMBERS.get(name, "not known")

    monkeypatch.setattr(sizes, "_unknown", unknown)
    monkeypatch.setattr(sizes, "_counted", count)
    asked = [
        ("open_clip", "rn50", "openai"),
        ("open_clip", "rn50", "wrong"),
        ("timm", "vit", None),
        ("open_clip", "rn50", "yfcc15m"),
        ("torchvision", "vit", None),
        ("timm", "other", None),
        ("timm", "never", "wrong"),
    ]
    answers = sizes.sizes(asked)
    assert [(each["parameters"], each["vision_parameters"]) for each in answers] == [
        (38, 25), (None, None), (86, 86), (38, 25), (None, None), (None, None), (None, None),
    ]  # fmt: skip
    told = [(each["unknown"], each["fault"], each["missing"]) for each in answers]
    assert told == [
        ("", "", ""), ("no wrong", "", ""), ("", "", ""), ("", "", ""), ("", "", "torchvision"), ("", "not known", ""),
        ("no wrong", "", ""),
    ]  # fmt: skip
    assert counted == {("open_clip", "rn50"): 1, ("timm", "vit"): 1, ("timm", "other"): 1}
