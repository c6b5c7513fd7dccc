"""The answers about sizes: each name counted once, each fault with its own name; the libraries are stood in for."""

from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.exporters import run
from robustcheck_onnx.exporters.errors import CallError


def part(n_parameters: int, **parts: Any) -> Any:
    return SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: n_parameters)], **parts)


@pytest.mark.long
def test_each_name_is_counted_once_and_each_answer_is_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []

    def check(_: str, tag: str | None) -> None:
        if tag == "wrong":
            raise CallError("no wrong", "--weights right")

    def shell(name: str) -> Any:
        counted.append(name)
        return {"rn50": part(38, visual=part(25)), "vit": part(86)}[name]

    def library(source: str, verb: str) -> Any:
        if source == "torchvision":
            raise ImportError(name="torchvision")
        return {"check": check, "shell": shell}[verb]

    monkeypatch.setattr(run, "_library", library)
    rows = (
        ("open_clip", "rn50", "openai", 38, 25, "", "", ""),
        ("open_clip", "rn50", "wrong", None, None, "no wrong; --weights right", "", ""),
        ("timm", "vit", None, 86, 86, "", "", ""),
        ("open_clip", "rn50", "yfcc15m", 38, 25, "", "", ""),
        ("torchvision", "vit", None, None, None, "", "", "torchvision"),
        ("timm", "other", None, None, None, "", "KeyError: 'other'", ""),
        ("timm", "never", "wrong", None, None, "no wrong; --weights right", "", ""),
        ("torch", "my:own", None, None, None, "", "the size of torch my:own is not known before it is loaded", ""),
    )
    answers = run.sizes([row[:3] for row in rows])
    fields = ("parameters", "vision_parameters", "unknown", "fault", "missing")
    assert [tuple(each[field] for field in fields) for each in answers] == [row[3:] for row in rows]
    assert sorted(counted) == ["other", "rn50", "vit"]
