"""robustcheck directions as a whole: real and made heads against an independent script, documents, and bad input."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.directions.run import DirectionsReport
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.isolation import Progress
from support import ROOT, Capture, Fields, Patch, but, levels, normal, onnx_models, raised, robustcheck, truths
from support.comparisons import numbers, rotation
from support.onnx_models import classifier, encoder, written
from support.screens import shown
from support.truths import Array, activations

LABELLED = ROOT / "tests" / "shift" / "labelled_photos.csv"
N, CLASSES, FEATURES = 60, 10, 16


def onnx_matrix(path: Path, name: str) -> Array:
    return next(numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer if w.name == name)


def save(folder: Path, model: onnx.ModelProto, name: str = "model.onnx") -> Path:
    """The model, and beside it 60 random images as tensors."""
    onnx_models.save(model, folder / name)
    np.save(folder / "images.npy", normal(N, 3, 8, 8).astype(np.float32))
    return folder / name


def measured(model: Path, **options: Any) -> DirectionsReport:
    options = {"images": model.with_name("images.npy"), "preprocess": "imagenet", "device": "cpu", **options}
    return rc.directions(model, **options)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return save(tmp_path, classifier(CLASSES))


def test_a_classifier_is_measured_as_an_independent_script_does(small: Path) -> None:
    report = measured(small)
    source = open_images(str(small.with_name("images.npy")), seed=0, limit=None)
    feed = np.stack([item.values for item in source.items()])  # type: ignore[union-attr]
    h = activations(small, ["features"], feed)["features"]
    weight, bias = onnx_matrix(small, "fc.weight"), onnx_matrix(small, "fc.bias")
    assert (report.model.n_classes, report.model.n_features, report.model.tensor) == (CLASSES, FEATURES, "features")
    assert 0 <= numbers(report.model.score_difference) < 1e-5
    for found, centred in ((report.raw, False), (report.centred, True)):
        truths.assert_is_of_head(found, truths.of_head(weight, bias, h, centred=centred), N)
    assert report.n_images == N
    made = normal(5, FEATURES, seed=3)
    np.save(small.with_name("head.npy"), made)
    report = measured(small, head=small.with_name("head.npy"), tensor="features")
    assert (report.model.head, report.model.score_difference) == ("head.npy", None)
    truths.assert_is_of_head(report.raw, truths.of_head(made, np.zeros(5), h), N)
    assert "not compared: the head is not the model's own" in report.to_markdown()


def ending(folder: Path, op: str) -> Path:
    """The classifier with an operator behind its last layer."""
    model = classifier(CLASSES)
    model.graph.node[-1].output[0] = "linear"
    model.graph.node.append(helper.make_node(op, ["linear"], ["logits"]))
    return save(folder, model, f"{op}.onnx")


def test_probabilities_are_traced_to_the_linear_scores(small: Path, tmp_path: Path) -> None:
    """A model that ends in a softmax has the same directions; one whose scores are another function is refused."""
    probabilities = measured(ending(tmp_path, "Softmax"))
    assert probabilities.raw == measured(small).raw
    assert 0 <= numbers(probabilities.model.score_difference) < 1e-5
    said = r"class output differs from W·h \+ b by .*or sigmoid counted in"
    raised(CannotAssessError, said, measured, ending(tmp_path, "Exp"))


@pytest.mark.long
def test_the_real_head_of_efficientnet_lite0(efficientnet_lite0: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import contract, demo

    report = rc.directions(efficientnet_lite0, labelled=LABELLED, device="cpu")
    fields = contract.checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    photos = open_images(str(LABELLED)).entries
    feed = np.stack([contract.preprocess(fields, Image.open(str(photo.origin))) for photo in photos])
    h = activations(efficientnet_lite0, ["representation"], feed)["representation"]
    (gemm,) = [node for node in onnx.load(efficientnet_lite0).graph.node if node.op_type == "Gemm"]
    weight, bias = (onnx_matrix(efficientnet_lite0, name) for name in gemm.input[1:])
    assert weight.shape == (1000, 1280)
    rc.check(efficientnet_lite0, images=LABELLED, device="cpu", save_representations=tmp_path / "rows.npz")
    rows = rc.load_representations(tmp_path / "rows.npz").values
    for of, rtol, of_largest in ((h, 1e-4, 0), (rows, 1e-6, 1e-6)):  # float32 of two sessions; what one session gives
        truth = truths.of_head(weight, bias, of)
        truths.assert_is_of_head(report.raw, truth, 40, rtol=rtol, of_largest=of_largest)
    assert report.in_distribution is not None
    assert report.in_distribution.accuracy.n_correct == 34  # as `shift` measures on these 40 photos


def coloured(folder: Path, *, names: tuple[str, ...] = ("0", "1", "2"), seed: int = 0) -> Path:
    """Images in folders that are class indices."""
    for i, pixels in enumerate(levels(20 * len(names), 8, 8, 3, seed=seed)):
        place = folder / names[i // 20]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i % 20}.png")
    return folder


def test_accuracy_where_labels_are_given(small: Path, tmp_path: Path) -> None:
    """One image cannot be read, and takes no label."""
    inside, outside = coloured(tmp_path / "in"), coloured(tmp_path / "out", seed=1)
    (inside / "1" / "3.png").write_bytes(b"no image")
    given: Fields = {"preprocess": "imagenet", "device": "cpu", "max_bad": 0.1}
    report = rc.directions(small, labelled=inside, shifted=[outside], **given)
    assert report.images.source == str(inside)
    truth = rc.measure_shift(small, inside, outside, **given)
    assert (report.in_distribution, report.shifted) == (truth.in_distribution, truth.shifted)
    assert truth.in_distribution.n_skipped == 1
    points = report.raw.curves[0].points
    assert {(*point.accuracy, *point.effective_robustness) for point in points} == {("in", "out")}
    assert points[0].kept == 9  # 90 % of 10 directions
    apart = rc.directions(small, images=[*levels(12, 8, 8, 3)], labelled=inside, **given)
    assert (apart.n_images, apart.in_distribution) == (12, report.in_distribution)
    for notes, said in (
        (report.notes, "1 of 60 images of in were skipped"),
        (report.notes, "in: 3 of 10 classes have images."),
        (apart.notes, "Only 12 images"),
    ):
        assert said in " ".join(notes)
    for width in (80, 120):
        text = shown(report, width, verbose=True)
        rows = re.findall(r"^ *(\d+) % +(\d+) +\S+ % ", text, re.MULTILINE)
        assert rows[:11] == [(f"{point.percent}", f"{point.kept}") for point in points]
        assert ("by singular value, random: from" in text) == (width == 80)
        assert "top-1 by directions kept" in text


# ------------------------------------------------------------------------------------------------ documents


def command(model: Path, *words: object) -> int:
    images = ["--images", model.with_name("images.npy"), "--preprocess", "imagenet", "--device", "cpu"]
    return robustcheck("directions", model, *images, *words)


def test_the_command_reports_and_ends_with_0(small: Path, capsys: Capture) -> None:
    assert command(small, "-o", "json", "--no-time") == 0
    text = capsys.readouterr().out
    report = DirectionsReport.model_validate_json(text)
    assert report == but(measured(small), time=None)
    assert report.to_json() == text
    assert repr(report).startswith("DirectionsReport(model=")
    assert command(small, "-q", "-o", f"terminal={small.with_name('r.txt')}", "-v") == 0
    assert capsys.readouterr().out == f"{small}: {report.summary}\n"
    assert "the effective rank is" in report.summary
    text = " ".join(small.with_name("r.txt").read_text().split())
    assert report.summary in text
    assert "Information, not a verdict." in text
    assert not re.search("PASS|WARN", text)


@pytest.mark.long
def test_a_data_frame_has_a_row_per_point(small: Path) -> None:
    pytest.importorskip("pandas")
    report = measured(small)
    frame = report.to_frame()
    assert len(frame) == 66
    assert frame.loc["raw"].iloc[0]["same"] == report.raw.curves[0].points[0].same.value


@pytest.mark.process
def test_progress_and_a_child_behind_the_wall(small: Path, wall: None) -> None:
    seen: list[Progress] = []
    through = measured(small, progress=seen.append)
    assert but(through, time=None) == but(measured(small, isolate=False), time=None)
    stages = {now.stage for now in seen}
    assert stages >= {"opening the model and the images", "loading the model", "decomposing the head"}
    assert any(now.n_done == N for now in seen)


# ------------------------------------------------------------------------------------------------ bad input


def reweighted(name: str, value: float) -> onnx.ModelProto:
    """The classifier with one number in the place of a weight's values."""
    model = classifier(CLASSES)
    (weight,) = (each for each in model.graph.initializer if each.name == name)
    weight.raw_data = np.full(tuple(weight.dims), value, np.float32).tobytes()
    return model


def test_bad_calls(small: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """Several heads are refused by the rule that finds the representation; a head in a file needs a named tensor."""
    monkeypatch.chdir(tmp_path)
    for name, proto in {
        "encoder": encoder(FEATURES),
        "nan": reweighted("conv.weight", np.nan),
        "inf": reweighted("fc.weight", np.inf),
        "same": reweighted("fc.weight", 1.0),
        "joined": written(
            "one = Gemm(features, w16x10); bent = Sigmoid(features); two = Gemm(bent, w16x10); logits = Add(one, two)",
            ("logits", TensorProto.FLOAT, ("batch", 10)),
        ),
    }.items():
        save(tmp_path, proto, f"{name}.onnx")
    coloured(Path("odd"), names=("0", "11"))
    np.save("head.npy", normal(5, 16))
    Path("head.txt").write_text("1 2 3")
    Path("torn.npy").write_bytes(Path("head.npy").read_bytes()[:90])
    np.save("narrow.npy", np.ones((5, 15)))
    np.save("nan.npy", np.full((5, 16), np.nan))
    for words, code, said in (
        ("encoder.onnx", 3, "head is missing; the file has no class scores"),
        ("nan.onnx", 3, "representation has values that are not finite"),
        ("inf.onnx", 3, "weights of the head are not all finite"),
        ("same.onnx", 3, "are the same for all classes; a prediction must depend on the image"),
        ("joined.onnx", 2, "no single linear layer ends it: 2 heads are joined, which read bent, features"),
        ("encoder.onnx --head head.txt", 2, "head is a .txt file; it must be .npy or .safetensors"),
        ("encoder.onnx --head torn.npy", 2, "head is not readable"),
        ("encoder.onnx --head narrow.npy", 2, "weight has shape (5, 15)"),
        ("encoder.onnx --head nan.npy", 2, "holds values that are not finite"),
        ("model.onnx --shifted odd", 2, "--shifted is given without --in"),
        ("model.onnx --classes sorted", 2, "--classes is given without --in"),
        ("model.onnx --in odd", 2, "label is '11'; the model has 10 classes, 0 to 9"),
        ("model.onnx --in odd --baseline timn", 2, "--baseline is 'timn'"),
        ("model.onnx --tensor features", 2, "--tensor or --pool is given without --head"),
        ("model.onnx --max-images 1", 3, "with a representation that is not constant is 1; at least 2"),
        ("model.onnx --head head.npy -o json=head.npy", 2, "a report must not replace it"),
        ("encoder.onnx --head head.npy -qq", 0, ""),
        ("joined.onnx --head head.npy --tensor features -qq", 0, ""),
    ):
        model, *others = words.split()
        assert command(Path(model), *others) == code, words
        told = capsys.readouterr()
        assert said in " ".join(told.err.split()), words
        assert told.out == ""


def test_images_without_a_direction_are_left_out(tmp_path: Path) -> None:
    """A black image of a rectified classifier without a bias: all features are zero."""
    model = save(tmp_path, classifier(CLASSES, bias=False))
    images = normal(N, 3, 8, 8).astype(np.float32) * (np.arange(N) != 3)[:, None, None, None]
    report = measured(model, images=images)
    assert (report.n_images, report.n_left_out) == (N - 1, 1)
    assert any("1 image left out" in note for note in report.notes)


def test_notes_say_where_single_directions_mean_little(tmp_path: Path, small: Path) -> None:
    for weight, told in (
        (normal(8, 16), []),
        (normal(8, 3) @ normal(3, 16), ["5 of 8 directions weigh nothing: the head's matrix has rank 3."]),
        (2 * rotation(16)[:6], ["5 singular values equal to the one before (to 1e-6 of the largest)"]),
    ):
        np.save(tmp_path / "head.npy", weight)
        report = measured(small, head=tmp_path / "head.npy", tensor="features")
        notes = [note for note in report.notes if "direction" in note and "Only" not in note]
        assert [note.partition(": such")[0] for note in notes] == told
