"""What the tests share, imported by its name: `from support import ROOT, measuring`."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

Capture = pytest.CaptureFixture[str]
Fields = dict[str, Any]  # values by their names
Place = tuple[Path, Path]  # a model, and the folder of its photos
ROOT = Path(__file__).parent.parent.parent  # of the repository
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))  # the bundled ones
INSTALLED = next(each for each in metadata.distributions() if each.name.startswith("robustcheck-onnx")).name


def extra(name: str) -> str:
    """What to type for an extra of the distribution that is tested: a release tests each."""
    return f"pip install '{INSTALLED}[{name}]'"
