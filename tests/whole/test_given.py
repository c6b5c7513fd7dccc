"""`check` of a model and of images that Python holds: the same as of files, and never a better verdict."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageSequence

import robustcheck_onnx as rc
from robustcheck_onnx.checker.images.source import Picture, Skipped, open_given, open_images
from robustcheck_onnx.checker.report.record import to_json
from support import Fields, Patch, Place, levels, onnx_models, raised
from support.torch_models import torch


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path) for path in files(folder)]


def arrays(folder: Path) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")) for image in pictures(folder)]


def preprocessed(array: np.ndarray) -> np.ndarray:
    """As the look-up model's contract says: divided by 255."""
    return (array.transpose(2, 0, 1) / 255).astype(np.float32)


# ------------------------------------------------------------------------------------------------------ model


def test_a_model_in_memory_is_checked_as_its_file_is_and_leaves_nothing_behind(
    lookup_pass: Place, passed: rc.Report, tmp_path: Path, monkeypatch: Patch
) -> None:
    model, photos = lookup_pass
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for given, name in ((model.read_bytes(), "<bytes>"), (onnx.load(model), "<ModelProto>")):
        report = rc.check(given, images=photos)
        facts = report.evidence.model
        assert (report.passed, facts.file, facts.file_digest) == (True, name, passed.evidence.model.file_digest)
        assert report.evidence.statistics == passed.evidence.statistics
        assert report.notes[-1] == (
            f"The model was handed over in Python ({name}), not as a file; no sidecar of it was looked for."
        )
        assert str(tmp_path) not in to_json(report)
        assert list(tmp_path.iterdir()) == []
    file = tmp_path / "report.json"
    file.write_text(to_json(report), encoding="utf-8")
    assert rc.verify(file, model, images=photos).exit_code == 0


def test_bytes_that_are_no_model_say_so_without_a_path(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outside = onnx_models.encoder()
    onnx.external_data_helper.set_external_data(outside.graph.initializer[0], "w.data")
    outside.graph.initializer[0].ClearField("raw_data")
    for given, said in ((b"", "^<bytes>: model file is empty"), (outside, "^<ModelProto>.*")):
        fault = raised(rc.RobustcheckError, said, rc.check, given)
        assert str(tmp_path) not in str(fault) + fault.hint


# ----------------------------------------------------------------------------------------------------- images


def test_pictures_and_arrays_give_what_their_files_give(lookup_pass: Place, passed: rc.Report) -> None:
    model, photos = lookup_pass
    kinds: Fields = {
        "80 paths": files(photos),
        "80 images in memory": pictures(photos),
        "80 preprocessed images in memory": list(map(preprocessed, arrays(photos))),
    }
    for source, images in kinds.items():
        report = rc.check(model, images=images)
        assert report.passed, report.verdict.reasons
        seen = report.evidence.images
        assert (seen.source, seen.given, seen.bundled, seen.n_available) == (source, True, False, 80)
        assert report.binding
        assert report.binding.settings.images == f"<{source}>"
        assert any(f"handed over in Python ({source})" in note for note in report.notes)
    assert not passed.evidence.images.given


def test_one_picture_is_the_same_image_in_every_form(lookup_pass: Place) -> None:
    """Same pixels from a PIL image, an array and the file; a picture and its array have one digest."""
    _, photos = lookup_pass
    named, given, stacked = (
        {item.name: item for item in source.items() if isinstance(item, Picture)}
        for source in (open_images(photos), open_given(pictures(photos)), open_given(np.stack(arrays(photos))))
    )
    for index, path in enumerate(files(photos)):
        file, picture, array = named[path.name], given[f"image {index}"], stacked[f"image {index}"]
        assert file.image.tobytes() == picture.image.tobytes() == array.image.tobytes()
        assert picture.digest == array.digest != file.digest
    assert len({item.digest for item in given.values()}) == 80


def test_images_in_memory_are_looked_at_as_files_are(lookup_pass: Place) -> None:
    """Sets that files get a WARN for, each in another form."""
    model, photos = lookup_pass
    noise = [preprocessed(image) for image in levels(60, 64, 64, 3)]
    for reason, images in (("duplicate_images", 60 * arrays(photos)[:1]), ("images_not_photo_like", noise)):
        given = rc.check(model, images=iter(images))
        assert given.verdict.verdict == "WARN"
        assert reason in {found.id for found in given.evidence.images.sanity.findings}


@pytest.mark.long
def test_a_tensor_of_torch_is_images_too(lookup_pass: Place) -> None:
    images = torch.tensor(np.stack([*map(preprocessed, arrays(lookup_pass[1]))]), requires_grad=True)
    assert rc.check(lookup_pass[0], images=images).passed


class Big:
    """A value whose repr is 40 million characters long."""

    def __repr__(self) -> str:
        return "x" * 40_000_000


def test_buffers_and_frames_that_are_used_again_are_copied(tmp_path: Path) -> None:
    def stream() -> Iterator[np.ndarray]:
        buffer = np.zeros((8, 8, 3), dtype=np.uint8)
        for level in range(4):
            buffer[:] = level
            yield buffer

    frames = [Image.fromarray(array.copy()) for array in stream()]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    for source in (stream(), ImageSequence.Iterator(Image.open(tmp_path / "film.png"))):
        seen = {item.image.getpixel((0, 0)) for item in open_given(source).items() if isinstance(item, Picture)}
        assert seen == {(level,) * 3 for level in range(4)}


def test_pictures_are_turned_and_composited_as_files_are_and_damaged_ones_skipped(
    tmp_path: Path, lookup_pass: Place
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 8), 257 * 9, dtype=np.uint16)).save(tmp_path / "c.png")
    Image.new("F", (8, 8)).save(tmp_path / "d.tif")
    (tmp_path / "e.png").write_bytes(files(lookup_pass[1])[0].read_bytes()[:2000])

    def told(item: Any) -> object:
        image = getattr(item, "image", None)
        return (image.size, image.mode, image.tobytes(), item.notes) if image else item.reason

    for path in files(tmp_path):
        (file,) = open_images(path).items()
        given = Image.open(path)
        for _ in range(2):  # the second time it is loaded already
            (picture,) = open_given([given]).items()
            assert told(picture) == told(file), path
    given.close()
    (skipped,) = open_given([given]).items()
    assert isinstance(skipped, Skipped)


CHW = np.zeros((3, 8, 8), dtype=np.uint8)
FLOATS = CHW.astype(np.float32)
PHOTO = np.zeros((8, 8, 3), dtype=np.uint8)


REFUSALS: list[tuple[Fields, type[Exception], str]] = [
    (
        {"images": Big()},
        TypeError,
        r"images: type is .*\.Big; it must be a path, or an iterable of paths, PIL images or",
    ),
    ({"images": b"photos"}, TypeError, "images: type is bytes; it must be"),
    ({"images": Image.new("RGB", (8, 8))}, TypeError, "images: type is PIL.Image.Image; it must be"),
    ({"images": [PHOTO, Big()]}, TypeError, r"image 1: type is .*\.Big; each must be a path, a PIL image or an array"),
    ({"images": [CHW]}, rc.UsageError, r"image 0: shape is \(3, 8, 8\); a uint8 array must be \(height, width, 3\)"),
    ({"images": [PHOTO.astype(np.int64)]}, rc.UsageError, "image 0: dtype is int64; it must be uint8"),
    ({"images": [PHOTO / 1]}, rc.UsageError, r"image 0: shape is \(8, 8, 3\); a float array is preprocessed"),
    ({"images": [FLOATS, FLOATS[:, 1:]]}, rc.UsageError, r"image 1: shape is \(3, 7, 8\), image 0's is \(3, 8, 8\)"),
    ({"images": [PHOTO, FLOATS]}, rc.UsageError, "image 1 is a preprocessed array, image 0 is a picture; all must be"),
    ({"images": ["nowhere.jpg"]}, rc.UsageError, "image 0 is nowhere.jpg; there is no such file"),
    ({"images": []}, rc.UsageError, "images: no images given"),
    ({"images": [FLOATS]}, rc.UsageError, r"image 0: tensor \(channel, height, width\) is \(3, 8, 8\); .* takes"),
    ({"max_bad": float("nan")}, rc.UsageError, "^max_bad is nan; it must be a finite number"),
    ({"seed": "x"}, rc.UsageError, "^seed is 'x'; it must be a whole number"),
    ({"model": Big()}, TypeError, r"^model: type is \S*\.Big; it must be a path, a URL, bytes or an"),
    ({"tensor": Big()}, rc.UsageError, r"^tensor is of type \S*\.Big; it must be text$"),
]


def test_what_is_not_taken_is_one_short_sentence(lookup_pass: Place) -> None:
    for given, error, said in REFUSALS:
        fault = raised(error, said, rc.check, **Fields(model=lookup_pass[0]) | given)
        assert len(str(fault)) < 300
        assert "\n" not in str(fault).partition("\nhint: ")[0]


# ---------------------------------------------------------------------------------------- what follows from it


def test_compare_and_scan_take_them_too(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    report = rc.compare(model, model, images=pictures(photos))
    assert report.candidate.evidence.images.source == "80 images in memory"
    assert report.passed
    for call in (rc.scan, rc.compare):
        raised(TypeError, r"^model: type is bytes; here it must be the path of a file$", call, b"x" * 1000)


def test_a_report_of_images_in_memory_is_never_measured_again(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    file = tmp_path / "report.json"
    file.write_text(to_json(rc.check(model, images=pictures(photos))), encoding="utf-8")
    said = "its images were 80 images in memory, handed over in Python; they can't"
    for rerun, images in ((True, None), (None, photos), (True, str(photos))):
        raised(rc.UsageError, said, rc.verify, file, model, images=images, rerun=rerun)
    alone, rested = (rc.verify(file, model, rerun=rerun, today=date(2026, 1, 1)) for rerun in (None, False))
    assert (alone.exit_code, rested.exit_code) == (1, 0)
    assert {finding.check: finding.seen for finding in rested.findings}["images"] == (
        "80 images in memory, handed over in Python, can't be opened again"
    )
