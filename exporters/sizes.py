"""Counts the parameters of models without their weights, on torch's meta device; downloads nothing.

    python -m robustcheck_onnx.exporters.sizes ASKED.json ANSWERS.json

ASKED.json: a list of [source, name, tag or null]. ANSWERS.json: a list of the same length of objects with
`parameters` (of all that is downloaded: a CLIP checkpoint holds the text tower too) and `vision_parameters` (of what
is exported), null where they can't be known, `fault` (why), `unknown` (a name or tag that the library has not), and
`missing` (the package that is not installed, without which nothing is known).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from .errors import ExportError
from .messages import quiet

BYTES_A_PARAMETER = 4  # float32, as most checkpoints are published; float16 ones have half


def sizes(asked: list[tuple[str, str, str | None]]) -> list[dict[str, Any]]:
    """The answers for a list of (source, name, tag or None); names that occur again are counted once."""
    counted: dict[tuple[str, str], tuple[int, int] | str] = {}
    answers = []
    for source, name, tag in asked:
        answer: dict[str, Any] = {"parameters": None, "vision_parameters": None}
        answer |= {"unknown": "", "fault": "", "missing": ""}
        answers.append(answer)
        try:
            answer["unknown"] = _unknown(source, name, tag)
            if not answer["unknown"] and (source, name) not in counted:
                counted[source, name] = _counted(source, name)
        except ImportError as error:
            answer["missing"] = error.name or source
            continue
        if answer["unknown"]:
            continue
        size_or_fault = counted[source, name]
        if isinstance(size_or_fault, str):
            answer["fault"] = size_or_fault
        else:
            answer["parameters"], answer["vision_parameters"] = size_or_fault
    return answers


def _unknown(source: str, name: str, tag: str | None) -> str:
    """What the exporter says of a name or tag that its library does not have; ImportError without the library."""
    if ":" in name or source not in ("open_clip", "timm", "torchvision"):
        return ""  # the hub's or the user's own
    try:
        importlib.import_module(f"robustcheck_onnx.exporters.from_{source}").check_name(name, tag)
    except ExportError as error:
        return f"{error.message}; {error.hint}"
    return ""


def _counted(source: str, name: str) -> tuple[int, int] | str:
    """(all parameters, those of the vision encoder), or why they are not known; ImportError without the library."""
    if ":" in name or source not in ("open_clip", "timm", "torchvision"):
        return f"the size of {source} {name} is not known before it is loaded"
    try:
        with quiet():
            model = _shell(source, name)
    except ImportError:
        raise
    except Exception as error:  # noqa: BLE001 # a library's own fault: the size is not known, and why is said
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    vision = model.visual if source == "open_clip" else model
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in vision.parameters())


def _shell(source: str, name: str) -> Any:
    import torch

    with torch.device("meta"):
        if source == "open_clip":
            import open_clip

            return open_clip.create_model(name, load_weights=False, device="meta")
        if source == "timm":
            import timm

            return timm.create_model(name, pretrained=False)
        import torchvision

        return torchvision.models.get_model(name, weights=None, **({"init_weights": False} if name in _SLOW else {}))


_SLOW = ("googlenet", "inception_v3")  # whose own initialisation takes seconds and can't run on the meta device


def main(asked: Path, answers: Path) -> None:
    """Read what is asked, write the answers."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # some text towers would ask the hub for a configuration
    questions = [(source, name, weights) for source, name, weights in json.loads(asked.read_text(encoding="utf-8"))]
    answers.write_text(json.dumps(sizes(questions)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
