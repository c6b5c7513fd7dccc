"""The bundled photos: attributed one by one, small, varied, and photos."""

from pathlib import Path

from PIL import Image

from robustcheck_onnx import checker
from robustcheck_onnx.checker.images.sanity import ImageSetState, describe
from robustcheck_onnx.checker.images.source import Picture, open_images

PHOTOS = Path(checker.__file__).parent / "photos"


TABLE = (PHOTOS / "ATTRIBUTION.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|\n ").split(" | ")] for line in TABLE.splitlines() if ".jpg | " in line]


def test_every_photo_is_attributed_once_under_an_open_licence() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(path.name for path in PHOTOS.glob("*.jpg"))
    assert len({row[4] for row in ROWS}) == len(ROWS)  # as many originals as photos
    for row in ROWS:
        assert all(row), row
        assert row[2] in {"public domain", "CC0-1.0"}, row
    assert f"{len(ROWS)} photos from {len(ROWS)} different originals" in TABLE
    assert "creativecommons.org/publicdomain/zero/1.0/" in TABLE


def test_photos_are_small_and_without_metadata() -> None:
    assert sum(path.stat().st_size for path in PHOTOS.iterdir()) < 3_500_000
    for path in PHOTOS.glob("*.jpg"):
        with Image.open(path) as image:
            assert min(image.size) <= 256, path.name
            assert not image.getexif(), path.name
            assert "icc_profile" not in image.info, path.name


def test_the_bundled_set_is_varied_and_photo_like() -> None:
    source = open_images(None)
    assert (source.kind, len(source)) == ("bundled", len(ROWS))
    items = list(source.items())
    assert [item for item in items if not isinstance(item, Picture) or item.notes] == []
    facts = ImageSetState(describe(item.image) for item in items if isinstance(item, Picture)).facts()
    assert facts.findings == ()
    assert facts.n_varied == facts.n_images >= 64
