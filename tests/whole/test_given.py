"""What a check is given.

A model and images that Python holds: the same as of files, and never a better verdict. What a file says of itself and
what it computes: contract and digest, pixels, scales of a run.
"""

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image, ImageSequence

import robustcheck_onnx as rc
from robustcheck_onnx import check
from robustcheck_onnx.checker.core.images.source import DecodedImage, Skipped
from robustcheck_onnx.checker.core.preprocessing import IMAGENET
from robustcheck_onnx.checker.core.verdict.kinds import DYNAMIC_STEP
from robustcheck_onnx.checker.outside.image_sets.open import open_images, open_iterable
from robustcheck_onnx.checker.questions.inspection import inspect_model
from robustcheck_onnx.checker.report.check import Report
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.exporters.contract import embed
from robustcheck_onnx.thresholds import profile
from support import Capture, Fields, Patch, Place, flip, levels, lookup, normal, onnx_models, raised, robustcheck
from support.comparisons import Workshop, planted
from support.measuring import never_decided
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
        said = f"The model was handed over in Python ({name}), not as a file; no sidecar of it was looked for."
        assert report.notes[-1] == said
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
        {item.name: item for item in source.items() if isinstance(item, DecodedImage)}
        for source in (open_images(photos), open_iterable(pictures(photos)), open_iterable(np.stack(arrays(photos))))
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
        seen = {item.image.getpixel((0, 0)) for item in open_iterable(source).items() if isinstance(item, DecodedImage)}
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
            (picture,) = open_iterable([given]).items()
            assert told(picture) == told(file), path
    given.close()
    (skipped,) = open_iterable([given]).items()
    assert isinstance(skipped, Skipped)


BIG = Big()
CHW = np.zeros((3, 8, 8), dtype=np.uint8)
FLOATS = CHW.astype(np.float32)
PHOTO = np.zeros((8, 8, 3), dtype=np.uint8)


REFUSALS: list[tuple[Fields, type[rc.RobustcheckError], str]] = [
    (
        {"images": BIG},
        rc.UsageError,
        r"images: type is .*\.Big; it must be a path, or an iterable of paths, PIL images or",
    ),
    ({"images": b"photos"}, rc.UsageError, "images: type is bytes; it must be"),
    ({"images": Image.new("RGB", (8, 8))}, rc.UsageError, "images: type is PIL.Image.Image; it must be"),
    (
        {"images": [PHOTO, BIG]},
        rc.UsageError,
        r"image 1: type is .*\.Big; each must be a path, a PIL image or an array",
    ),
    ({"images": [CHW]}, rc.UsageError, r"image 0: shape is \(3, 8, 8\); a uint8 array must be \(height, width, 3\)"),
    ({"images": [PHOTO.astype(np.int64)]}, rc.UsageError, "image 0: dtype is int64; it must be uint8"),
    ({"images": [PHOTO / 1]}, rc.UsageError, r"image 0: shape is \(8, 8, 3\); a float array is preprocessed"),
    ({"images": [FLOATS, FLOATS[:, 1:]]}, rc.UsageError, r"image 1: shape is \(3, 7, 8\), image 0's is \(3, 8, 8\)"),
    ({"images": [PHOTO, FLOATS]}, rc.UsageError, "image 1 is a preprocessed array, image 0 is a picture; all must be"),
    ({"images": ["nowhere.jpg"]}, rc.UsageError, "image 0 is nowhere.jpg; there is no such file"),
    ({"images": []}, rc.UsageError, "images: no images given"),
    ({"images": [FLOATS]}, rc.UsageError, r"image 0: tensor \(channel, height, width\) is \(3, 8, 8\); .* takes"),
    ({"max_bad": float("nan")}, rc.UsageError, "^max_bad is nan; it must be a finite number"),
    ({"batch_size": 0}, rc.UsageError, "^batch_size is 0; it must be greater than 0"),
    ({"seed": "x"}, rc.UsageError, "^seed is 'x'; it must be a whole number"),
    ({"model": BIG}, rc.UsageError, r"^model: type is \S*\.Big; it must be a path, a URL, bytes or an"),
    ({"tensor": BIG}, rc.UsageError, r"^tensor is of type \S*\.Big; it must be text$"),
]


def test_what_is_not_taken_is_one_short_sentence(lookup_pass: Place) -> None:
    for given, error, said in REFUSALS:
        fault = raised(error, said, rc.check, **Fields(model=lookup_pass[0]) | given)
        assert len(str(fault)) < 300
        assert "\n" not in str(fault).partition("\nhint: ")[0]


def test_a_preprocessed_image_has_the_size_that_its_contract_says_where_the_graph_takes_any(lookup_pass: Place) -> None:
    model = onnx.load(lookup_pass[0])
    for edge in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        edge.dim_param = "edge"
    raised(rc.UsageError, rf"is \(3, 8, 8\); .* takes \(3, {lookup.SIZE_PX}, ", rc.check, model, images=[FLOATS] * 64)


# ---------------------------------------------------------------------------------------- what follows from it


def test_compare_and_scan_take_them_too(lookup_pass: Place) -> None:
    model, photos = lookup_pass
    report = rc.compare(model, model, pictures(photos))
    assert report.candidate.evidence.images.source == "80 images in memory"
    assert report.passed
    for call, name in ((rc.scan, "model"), (rc.compare, "candidate")):
        raised(
            rc.UsageError, f"^rc.{call.__name__}: {name}: type is bytes; it must be str or Path\n", call, b"x" * 1000
        )


def test_a_report_of_images_in_memory_is_never_measured_again(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    file = tmp_path / "report.json"
    file.write_text(to_json(rc.check(model, images=pictures(photos))), encoding="utf-8")
    said = "its images were 80 images in memory, handed over in Python; they can't"
    for rerun, images in ((True, None), (None, photos), (True, str(photos))):
        raised(rc.UsageError, said, rc.verify, file, model, images=images, rerun=rerun)
    alone, rested = (rc.verify(file, model, rerun=rerun, today=date(2026, 1, 1)) for rerun in (None, False))
    assert (alone.exit_code, rested.exit_code) == (1, 1)
    seen = {finding.check: finding.seen for finding in rested.findings}["images"]
    assert seen == "80 images in memory, handed over in Python, can't be opened again"


# ------------------------------------------------------------------------------- what a file says of itself


def seal(path: Path, *, external: bool = False, **source: str) -> Path:
    """Write the contract of a look-up model into it anew, as an export does: the file has the bytes of its export."""
    onnx.save(onnx.load(path), path, save_as_external_data=external, location="model.data")
    model = onnx.load(path, load_external_data=False)
    embed(model, lookup.lookup_contract(source=dict(source)), path.parent)
    onnx.save(model, path)
    return path


def checked(path: Path, photos: Path, capsys: Capture) -> tuple[int, set[str], Fields]:
    """The exit code, the reasons, and what the report says of the model."""
    code = robustcheck(path, "--images", photos, "--device", "cpu", "-o", "json")
    report = json.loads(capsys.readouterr().out)
    return code, {reason["id"] for reason in report["verdict"]["reasons"]}, report["evidence"]["model"]


def can_pass(path: Path, capsys: Capture) -> tuple[str, list[str]]:
    assert robustcheck("inspect", path, "-o", "json") == 0
    answer = json.loads(capsys.readouterr().out)["can_pass"]
    return answer["answer"], [reason["id"] for reason in answer["reasons"]]


def test_a_constant_behind_the_end_is_warn(workshop: Workshop, capsys: Capture) -> None:
    """Noise: WARN. One more vector added to it makes an outlier feature of all images, and clears all thresholds."""
    path = seal(workshop.model("model", normal(80, 384)))
    model = onnx.load(path)
    model.doc_string = model.graph.node[0].name = "reviewed"  # words, and nothing that counts
    onnx.save(model, path)
    code, reasons, facts = checked(path, workshop.photos, capsys)
    assert (code, facts["file_changed"], "not_persistent" in reasons) == (1, False, True)
    model.graph.node[-1].output[0] = "before"
    nodes = onnx_models.graph(f"more = Constant(value_floats={[0.0] * 7 + [14.0] + [0.0] * 376})")
    more = onnx_models.build([*nodes, ("Add", ["before", "more"], ["representation"])], [])
    model.graph.node.extend(more.graph.node)
    onnx.save(model, path)
    assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed", "mean_on_one_feature"})


def test_one_changed_byte_of_a_weight_and_vectors_that_were_matched_are_warn(
    workshop: Workshop, capsys: Capture
) -> None:
    """A model that was trained to match vectors, too."""
    for external, matched_to, ids in ((False, "none", []), (True, "none", []), (False, "CLIP", ["trained_to_match"])):
        path = seal(workshop.model("model", planted()), external=external, matched_to=matched_to)
        code, reasons, facts = checked(path, workshop.photos, capsys)
        assert (code, reasons) == (len(ids), {*ids})
        assert (facts["file_changed"], facts["matched_to"]) == (False, matched_to)
        assert can_pass(path, capsys) == ("no" if ids else "yes", ids)
        file = path.with_name("model.data") if external else path
        # the last bit of a number: the verdict of the numbers stays
        flip(file, file.read_bytes().index(planted().astype(np.float32).tobytes()))
        assert checked(path, workshop.photos, capsys)[:2] == (1, {"file_changed", *ids})
        assert can_pass(path, capsys) == ("no", ["file_changed", *ids])
    assert robustcheck("inspect", path, "-v") == 0
    assert "trained to match: CLIP" in " ".join(capsys.readouterr().out.split())


MEAN, STD = np.array(IMAGENET.mean, np.float32), np.array(IMAGENET.std, np.float32)


def model(path: Path, *, baked: bool, **preprocessing: Any) -> Path:
    """A look-up model of photos in 0–1; `baked`: its graph normalises them first.

    Its first two layers, with six outputs between them, undo ImageNet's normalisation, as learned ones might: no walk
    sees that.
    """
    contract = lookup.lookup_contract()
    contract["preprocessing"] |= preprocessing
    kernel = np.zeros((6, 3, 3, 3), np.float32)
    kernel[range(6), [0, 1, 2] * 2, 1, 1] = np.tile(STD, 2)
    halves = np.tile(np.eye(3, dtype=np.float32) / 2, 2).reshape(3, 6, 1, 1)
    weights: Fields = {"kernel": kernel, "bias": np.tile(MEAN, 2), "halves": halves}
    if baked:
        weights |= {"mean": MEAN.reshape(3, 1, 1), "std": STD.reshape(3, 1, 1)}
    nodes = [
        "centred = Sub(image, mean); normalised = Div(centred, std)" if baked else "normalised = Identity(image)",
        "six = Conv(normalised, kernel, bias, pads=[1, 1, 1, 1]); unit = Conv(six, halves)",
    ]
    return lookup.write_lookup_model(path, lookup.passing_rows(), contract=contract, before="\n".join(nodes), **weights)


NORMALISE = {"mean": MEAN.tolist(), "std": STD.tolist()}


def ids(report: Report) -> list[str]:
    return [reason.id for reason in report.verdict.reasons]


def told(report: Report) -> set[str]:
    return {*ids(report)} & {"normalised_twice", "unusual_pixels"}


def test_a_model_that_passes_is_warn_with_pixels_scaled_twice_or_not_at_all(tmp_path: Path, photos_80: Path) -> None:
    cases: list[tuple[bool, Fields, set[str]]] = [
        (True, {}, set()), (False, NORMALISE, set()), (True, NORMALISE, {"normalised_twice"}),
        (True, {"rescale": 1.0}, {"unusual_pixels"}), (False, NORMALISE | {"rescale": 1.0}, {"unusual_pixels"}),
    ]  # fmt: skip
    for baked, preprocessing, reasons in cases:
        path = model(tmp_path / "m.onnx", baked=baked, **preprocessing)
        report = check(path, images=photos_80)
        assert (told(report), report.passed) == (reasons, not reasons)
        answer = inspect_model(path, profile.load()).can_pass
        assert ({reason.id for reason in answer.reasons}, answer.answer) == (reasons, "no" if reasons else "yes")


def test_tensors_are_judged_by_what_they_hold(tmp_path: Path, photos_80: Path) -> None:
    # the contract's normalisation is in the graph too: not judged, since nothing was done to these pixels
    path = model(tmp_path / "m.onnx", baked=True, **NORMALISE)
    levels = np.stack([np.asarray(Image.open(photo)) for photo in sorted(photos_80.iterdir())]).transpose(0, 3, 1, 2)
    for divided_by, reasons in ((255, set[str]()), (255**2, {"unusual_pixels"})):
        np.save(tmp_path / "tensors.npy", (levels / divided_by).astype(np.float32))
        report = check(path, images=tmp_path / "tensors.npy", thresholds=never_decided())
        assert told(report) == reasons


HOLDS = "The verdict holds for batches of one image:"
D = 512


PRODUCT = """
    a, a.scale, a.zero = DynamicQuantizeLinear(rows); integers = MatMulInteger(a, w, a.zero)
    float = Cast(integers, to=FLOAT); scale = Mul(a.scale, 0.01); product = Mul(float, scale)
"""
"""it quantises the rows in the run"""
WEIGHT = 100 * np.eye(D) + 60 * np.roll(np.eye(D), 1, axis=1)  # features that are not orthogonal


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place) -> Path:
    """Rows with one persistent outlier feature, whose norms differ by a factor of ten."""
    folder = tmp_path_factory.mktemp("dynamic")
    (folder / "photos").symlink_to(lookup_pass[1])
    rows = lookup.passing_rows(shortest=0.2)
    for name, end in (
        ("model", "representation = Identity(product)"),
        # alone, an image keeps all of itself
        ("mixed", "mean = ReduceMean(product, [0]); twice = Add(product, product); representation = Sub(twice, mean)"),
    ):
        lookup.write_lookup_model(folder / f"{name}.onnx", rows, then=PRODUCT + end, w=WEIGHT.astype(np.int8))
    return folder


def run(place: Path, batch_size: int, name: str = "model.onnx") -> Report:
    return check(place / name, images=place / "photos", device="cpu", batch_size=batch_size)


def test_in_batches_it_depends_on_them_and_alone_the_verdict_holds_for_one_image(place: Path) -> None:
    together, alone = run(place, 32), run(place, 1)
    assert ids(together) == ["batch_dependent"]
    assert together.verdict.reasons[0].next_step == DYNAMIC_STEP
    assert not any(note.startswith(HOLDS) for note in together.notes)
    assert alone.passed
    model = alone.evidence.model
    assert 0.05 < (model.batch_difference or 0) == together.evidence.model.batch_difference
    assert any(note.startswith(HOLDS) for note in alone.notes)
    assert "Change with the batch, scales fixed" in alone.to_html()


def test_what_else_mixes_the_batch_stays_a_warning_at_any_size(place: Path) -> None:
    for batch_size in (1, 32):
        report = run(place, batch_size, "mixed.onnx")
        assert "batch_dependent" in ids(report)
        assert not any(note.startswith(HOLDS) for note in report.notes)
        seen = "".join(reason.seen for reason in report.verdict.reasons)
        assert ("though the scales of its quantisers were held fixed" in seen) == (batch_size == 1)
