"""Each JSON document that a command of the tests writes, held against the one schema of them all."""

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


@functools.cache
def validator() -> Any:
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped] # only where there is JSON

    from robustcheck_onnx.checker.report.record import json_schema

    return Draft202012Validator(json.loads(json_schema()))


def fault_of(text: str) -> str:
    """Why a JSON document of ours is none that the schema names; empty where it is one, or no JSON of ours."""
    if not text.startswith("{\n"):
        return ""
    document = json.loads(text)
    ours = document.get("tool") == "robustcheck" or str(document.get("schema")).startswith("robustcheck.")
    errors = validator().iter_errors(document) if ours else ()
    return "\n".join(f"{error.json_path}: {error.message}" for error in errors)


def validating(main: Callable[[list[str]], int]) -> Callable[[list[str]], int]:
    """The command, whose documents in files (`-o json=PATH`) and on a stdout that pytest captures are validated."""

    def checked(words: list[str]) -> int:
        out = sys.stdout
        before = len(out.getvalue()) if hasattr(out, "getvalue") else 0
        code = main(words)
        texts = [out.getvalue()[before:]] if hasattr(out, "getvalue") else []
        files = [Path(word.removeprefix("json=")) for word in words if word.startswith("json=")]
        texts += [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
        for text in texts:
            assert not (fault := fault_of(text)), fault
        return code

    return checked
