"""The answers about sizes: each name counted once, each fault with its own name; the libraries are stood in for."""

from __future__ import annotations

import pytest

from robustcheck_onnx.exporters import sizes


def test_each_name_is_counted_once_and_each_answer_is_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []

    def unknown(source: str, name: str, tag: str | None) -> str:
        if source == "torchvision":
            raise ImportError(name="torchvision")
        return f"no {tag}" if tag == "wrong" else ""

    def count(source: str, name: str) -> tuple[int, int] | str:
        counted.append(f"{source} {name}")
        return {"rn50": (38, 25), "vit": (86, 86)}.get(name, "not known")

    monkeypatch.setattr(sizes, "_unknown", unknown)
    monkeypatch.setattr(sizes, "_counted", count)
    rows = (
        ("open_clip", "rn50", "openai", 38, 25, "", "", ""),
        ("open_clip", "rn50", "wrong", None, None, "no wrong", "", ""),
        ("timm", "vit", None, 86, 86, "", "", ""),
        ("open_clip", "rn50", "yfcc15m", 38, 25, "", "", ""),
        ("torchvision", "vit", None, None, None, "", "", "torchvision"),
        ("timm", "other", None, None, None, "", "not known", ""),
        ("timm", "never", "wrong", None, None, "no wrong", "", ""),
    )
    answers = sizes.sizes([row[:3] for row in rows])
    fields = ("parameters", "vision_parameters", "unknown", "fault", "missing")
    assert [tuple(each[field] for field in fields) for each in answers] == [row[3:] for row in rows]
    assert sorted(counted) == ["open_clip rn50", "timm other", "timm vit"]
