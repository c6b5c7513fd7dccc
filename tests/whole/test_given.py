"""`check` of a model and of images that Python holds: the same as of files, and never a better verdict."""

from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageSequence

import robustcheck_onnx as rc
from robustcheck_onnx.checker.images import Picture, Skipped, Tensor, open_given, open_images
from robustcheck_onnx.checker.report.record import to_json

Place = tuple[Path, Path]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(path) for path in files(folder)]


def arrays(folder: Path) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(image.convert("RGB")) for image in pictures(folder)]


def tensors(folder: Path) -> list[np.ndarray[Any, Any]]:
    """Preprocessed as the look-up model's contract says: divided by 255."""
    return [(array.transpose(2, 0, 1) / 255).astype(np.float32) for array in arrays(folder)]


# ------------------------------------------------------------------------------------------------------ model


def test_a_model_in_memory_is_checked_as_its_file_is(lookup_pass: Place, passed: rc.Report) -> None:
    model, photos = lookup_pass
    content = model.read_bytes()
    for given, name in ((content, "<bytes>"), (onnx.load(model), "<ModelProto>")):
        report = rc.check(given, images=photos)
        assert report.passed
        assert report.evidence.model.file == name
        assert report.evidence.model.file_digest == passed.evidence.model.file_digest
        assert report.evidence.preprocessing.source == "contract"  # metadata_props counts as in a file
        assert report.evidence.statistics == passed.evidence.statistics
        assert report.notes[-1] == (
            f"The model was handed over in Python ({name}), not as a file; no sidecar of it was looked for."
        )
        assert "/tmp" not in to_json(report.model_copy(update={"binding": None})).replace(str(photos), "")


def test_a_model_in_memory_leaves_nothing_behind(
    lookup_pass: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rc.check(lookup_pass[0].read_bytes(), images=lookup_pass[1], max_images=3)
    rc.check(lookup_pass[0], images=files(lookup_pass[1]), max_images=3)
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_no_model_say_so_without_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for content, said in ((b"", "empty"), (b"no model", "text"), (b"PK\x03\x04", "zip")):
        with pytest.raises(rc.CannotAssessError, match=rf"^<bytes>: model file is .*{said}") as caught:
            rc.check(content)
        assert str(tmp_path) not in str(caught.value) + caught.value.hint
    outside = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["w"], ["y"])],
            "g",
            [],
            [],
            [onnx.TensorProto(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)],
        )
    )
    outside.graph.initializer[0].external_data.add(key="location", value="w.data")
    with pytest.raises(rc.RobustcheckError, match=r"^<ModelProto>") as missing:
        rc.check(outside)
    assert str(tmp_path) not in str(missing.value) + missing.value.hint


# ----------------------------------------------------------------------------------------------------- images


def test_pictures_and_arrays_give_what_their_files_give(lookup_pass: Place, passed: rc.Report) -> None:
    model, photos = lookup_pass
    kinds: dict[str, Any] = {
        "80 paths": files(photos),
        "80 images in memory": pictures(photos),
        "80 preprocessed images in memory": tensors(photos),
    }
    for source, images in kinds.items():
        report = rc.check(model, images=images)
        found = report.evidence
        assert report.passed, report.verdict.reasons
        assert found.images.source == source
        assert (found.images.given, found.images.bundled, found.images.n_available) == (True, False, 80)
        assert found.statistics.features[0].index == passed.evidence.statistics.features[0].index == 7
        assert found.preprocessing.preprocessing == passed.evidence.preprocessing.preprocessing
        assert report.binding is not None
        assert report.binding.settings.images == f"<{source}>"
        assert any(f"handed over in Python ({source})" in note for note in report.notes)
    assert not passed.evidence.images.given


def test_one_picture_is_the_same_image_in_every_form(lookup_pass: Place) -> None:
    """Same pixels from a PIL image, an array and the file; a picture and its array have one digest."""
    _, photos = lookup_pass
    named = {item.name: item for item in open_images(photos).items()}
    as_pictures = {item.name: item for item in open_given(pictures(photos)).items()}
    as_arrays = {item.name: item for item in open_given(np.stack(arrays(photos))).items()}
    for index, path in enumerate(files(photos)):
        file, picture, array = named[path.name], as_pictures[f"image {index}"], as_arrays[f"image {index}"]
        assert isinstance(file, Picture)
        assert isinstance(picture, Picture)
        assert isinstance(array, Picture)
        assert file.image.tobytes() == picture.image.tobytes() == array.image.tobytes()
        assert picture.digest == array.digest != file.digest
    assert len({item.digest for item in as_pictures.values() if isinstance(item, Picture)}) == 80


def test_the_sanity_of_images_in_memory_is_that_of_files(lookup_pass: Place, tmp_path: Path) -> None:
    """Sets that files get a WARN for, each in another form."""
    model, photos = lookup_pass
    rng = np.random.default_rng(0)
    first = arrays(photos)[0]
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(60)]
    flat = [np.full((64, 64, 3), level, dtype=np.uint8) for level in range(60)]
    cases: list[tuple[str, list[Any], Callable[[list[Any]], Any]]] = [
        ("duplicate_images", [first] * 60, iter),
        ("images_not_photo_like", noise, lambda images: [Image.fromarray(image) for image in images]),
        (
            "images_not_photo_like",
            flat,
            lambda images: [(i.transpose(2, 0, 1) / 255).astype(np.float32) for i in images],
        ),
    ]
    for number, (reason, images, form) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{index:02d}.png")
        from_files, report = rc.check(model, images=folder), rc.check(model, images=form(images))
        assert report.verdict.verdict == "WARN", reason
        assert reason in {found.id for found in report.evidence.images.sanity.findings}
        one, other = report.evidence.images.sanity, from_files.evidence.images.sanity
        assert one.n_images >= 50  # a run may stop there
        assert (one.n_duplicates > 0, one.unlike_share) == (other.n_duplicates > 0, other.unlike_share)
        assert {r.id for r in report.verdict.reasons} >= {r.id for r in from_files.verdict.reasons}, reason


def test_a_buffer_that_is_used_again_is_copied() -> None:
    def stream() -> Iterator[np.ndarray[Any, Any]]:
        buffer = np.zeros((8, 8, 3), dtype=np.uint8)
        for level in range(4):
            buffer[:] = level
            yield buffer

    levels = {item.image.getpixel((0, 0)) for item in open_given(stream()).items() if isinstance(item, Picture)}
    assert levels == {(level,) * 3 for level in range(4)}


def test_frames_are_copied_and_damaged_photos_are_skipped(tmp_path: Path, lookup_pass: Place) -> None:
    frames = [Image.new("RGB", (8, 8), (50 * index, 0, 0)) for index in range(4)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    film = open_given(ImageSequence.Iterator(Image.open(tmp_path / "film.png")))
    assert {item.image.getpixel((0, 0)) for item in film.items() if isinstance(item, Picture)} == {
        (50 * index, 0, 0) for index in range(4)
    }
    whole = files(lookup_pass[1])[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (damaged,) = open_given(Image.open(path) for path in [tmp_path / "cut.png"]).items()
    assert isinstance(damaged, Skipped)
    assert damaged.reason.startswith("damaged: ")


def test_pictures_are_turned_and_composited_as_files_are(tmp_path: Path) -> None:
    tall = Image.new("RGB", (8, 4), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    tall.save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "b.png")
    Image.fromarray(np.full((8, 8), 257 * 9, dtype=np.uint16)).save(tmp_path / "c.png")
    Image.new("F", (8, 8)).save(tmp_path / "d.tif")
    for path in files(tmp_path):
        (file,) = open_images(path).items()
        given = Image.open(path)
        for _ in range(2):  # the second time it is loaded already
            (picture,) = open_given([given]).items()
            assert type(picture) is type(file)
            if isinstance(picture, Picture) and isinstance(file, Picture):
                assert (picture.image.size, picture.image.mode) == (file.image.size, "RGB")
                assert picture.image.tobytes() == file.image.tobytes()
                assert picture.notes == file.notes
            elif isinstance(picture, Skipped) and isinstance(file, Skipped):
                assert picture.reason == file.reason
    closed = Image.open(tmp_path / "b.png")
    closed.close()
    (skipped,) = open_given([closed]).items()
    assert isinstance(skipped, Skipped)


@pytest.mark.long
def test_tensors_of_torch_are_images_too() -> None:
    torch = pytest.importorskip("torch")
    (picture,) = open_given([torch.full((4, 5, 3), 7, dtype=torch.uint8)]).items()
    assert isinstance(picture, Picture)
    assert (picture.image.size, picture.image.getpixel((0, 0))) == ((5, 4), (7, 7, 7))
    batch = torch.full((2, 3, 4, 5), 0.5, requires_grad=True)
    for item in open_given(batch).items():
        assert isinstance(item, Tensor)
        assert item.values.shape == (3, 4, 5)
        assert item.values.dtype == np.float32


class Big:
    """A value whose repr is 40 million characters long."""

    def __repr__(self) -> str:
        return "x" * 40_000_000


def refusals() -> list[tuple[Any, type[Exception], str]]:
    chw = np.zeros((3, 8, 8), dtype=np.uint8)
    floats = np.zeros((3, 8, 8), dtype=np.float32)
    photo = np.zeros((8, 8, 3), dtype=np.uint8)
    return [
        (3, TypeError, "images: type is int; it must be a path, or an iterable of paths, PIL images or arrays"),
        (Big(), TypeError, r"images: type is .*\.Big; it must be"),
        (b"photos", TypeError, "images: type is bytes; it must be"),
        (Image.new("RGB", (8, 8)), TypeError, "images: type is PIL.Image.Image; it must be"),
        ([(photo, 1)], TypeError, "image 0: type is tuple; each must be a path, a PIL image or an array"),
        ([photo, Big()], TypeError, r"image 1: type is .*\.Big; each"),
        ([chw], rc.UsageError, r"image 0: shape is \(3, 8, 8\); a uint8 array must be \(height, width, 3\)"),
        ([photo.astype(np.int64)], rc.UsageError, "image 0: dtype is int64; it must be uint8"),
        ([photo.astype(np.float32)], rc.UsageError, r"image 0: shape is \(8, 8, 3\); a float array is preprocessed"),
        ([floats, floats[:, 1:]], rc.UsageError, r"image 1: shape is \(3, 7, 8\), image 0's is \(3, 8, 8\)"),
        ([photo, floats], rc.UsageError, "image 1 is a preprocessed array, image 0 is a picture; all must be of one"),
        (["nowhere.jpg"], rc.UsageError, "image 0 is nowhere.jpg; there is no such file"),
        ([], rc.UsageError, "images: number of images is 0"),
        ([floats], rc.UsageError, r"image 0: tensor \(channel, height, width\) is \(3, 8, 8\); .* takes"),
    ]


def test_what_is_not_taken_is_one_short_sentence(lookup_pass: Place) -> None:
    for images, error, said in refusals():
        with pytest.raises(error, match=said) as caught:
            rc.check(lookup_pass[0], images=images)
        assert len(str(caught.value)) < 300
        assert "\n" not in str(caught.value)


def test_other_values_are_not_written_out(lookup_pass: Place) -> None:
    with pytest.raises(TypeError, match=r"^model: type is \S*\.Big; it must be a path, a URL, bytes or an"):
        rc.check(Big())  # type: ignore[arg-type]
    with pytest.raises(rc.UsageError, match=r"^tensor is of type \S*\.Big; it must be a valid string$"):
        rc.check(lookup_pass[0], tensor=Big())  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------- what follows from it


def test_compare_and_scan_take_them_too(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    report = rc.compare(model, model, images=pictures(photos))
    assert report.candidate.evidence.images.source == "80 images in memory"
    assert report.passed
    for call in (rc.scan, rc.compare):
        with pytest.raises(TypeError, match=r"^model: type is bytes; here it must be the path of a file$"):
            call(b"x" * 1000)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="image 0: type is int"):
        rc.scan(model, images=[1])  # type: ignore[list-item]


def test_a_report_of_images_in_memory_is_never_measured_again(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    report = rc.check(model, images=pictures(photos))
    file = tmp_path / "report.json"
    file.write_text(to_json(report), encoding="utf-8")
    refused: list[dict[str, Any]] = [{"rerun": True}, {"images": photos}, {"images": str(photos), "rerun": True}]
    for asked in refused:
        with pytest.raises(
            rc.UsageError, match="its images were 80 images in memory, handed over in Python; they can't"
        ):
            rc.verify(file, model, **asked)
    alone = rc.verify(file, model)
    assert (alone.exit_code, alone.rule) == (
        1,
        "nothing but the report says that its numbers are right: check a signature (--public-key), or "
        "rely on the report (--no-rerun)",
    )
    rested = rc.verify(file, model, rerun=False, today=date(2026, 1, 1))
    assert rested.exit_code == 0
    assert {finding.check: finding.seen for finding in rested.findings}["images"] == (
        "80 images in memory, handed over in Python, can't be opened again"
    )


def test_a_report_of_bytes_is_verified_against_the_file(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    file = tmp_path / "report.json"
    file.write_text(to_json(rc.check(model.read_bytes(), images=photos)), encoding="utf-8")
    assert rc.verify(file, model, images=photos).exit_code == 0
