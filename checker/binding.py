"""What ties a document to what it is about: the options and versions of its run, and a digest of its own content.

A digest shows that a document is whole and unchanged. It is no signature: whoever changes the content can compute a
new one (docs/verify.md says what each check is worth).
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from robustcheck_onnx.thresholds.frozen import Frozen


class Settings(Frozen):
    """The options of a run that can move its numbers, as they were given; None = not given.

    The profile, the preprocessing and the gate's rule stand in the report themselves.
    """

    images: str | None
    """None = the bundled photos"""
    tensor: str | None
    pool: str | None
    preprocess: str | None
    device: str
    seed: int
    max_images: int | None
    max_bad: float
    batch_size: int
    engine: str
    workers: int | None


class Binding(Frozen):
    """How a report was made, and the digest that makes a change visible."""

    settings: Settings
    versions: dict[str, str]
    """of this package, of Python and of the libraries that compute: name, version"""
    result_digest: str = ""
    """sha256:… over the canonical JSON of the report without `time` and without this field"""


def versions() -> dict[str, str]:
    """Versions of everything that computes here."""
    import onnxruntime  # noqa: PLC0415 # two distributions hold this package: only it knows its version

    names = {"robustcheck": "robustcheck-onnx", "numpy": "numpy", "onnx": "onnx", "Pillow": "Pillow"}
    found = {name: version(distribution) for name, distribution in names.items()}
    return dict(sorted((found | {"onnxruntime": onnxruntime.__version__, "python": platform.python_version()}).items()))


def digest_of(document: Mapping[str, Any]) -> str:
    """sha256:… over a JSON document in canonical form: sorted keys, no spaces, ASCII, finite numbers.

    Raises ValueError for a number that is not finite.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def result_digest_of(report: Mapping[str, Any]) -> str:
    """The result digest of a report in its JSON form, whatever it says of its own.

    Not covered: `time` (when and how fast: the same run twice has the same digest) and the digest itself.
    Raises ValueError for a number that is not finite.
    """
    content = {key: value for key, value in report.items() if key != "time"}
    if isinstance(content.get("binding"), Mapping):
        content["binding"] = {k: v for k, v in content["binding"].items() if k != "result_digest"}
    return digest_of(content)
