"""What the tests share, imported by its name: `from support import ROOT, measuring`."""

from pathlib import Path

import pytest

Capture = pytest.CaptureFixture[str]
Place = tuple[Path, Path]  # a model, and the folder of its photos
ROOT = Path(__file__).parent.parent.parent  # of the repository
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))  # the bundled ones
