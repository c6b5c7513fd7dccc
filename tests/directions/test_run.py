"""robustcheck directions as a whole: real and made heads against an independent script, documents, and bad input."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.directions.document import DirectionsReport
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.isolation import Progress
from support import ROOT, Capture, Fields, but, directions_truth, levels, normal, onnx_models, robustcheck
from support.onnx_models import classifier, encoder
from support.terminal import shown
from support.written import written

Array = NDArray[Any]
LABELLED = ROOT / "tests" / "shift" / "labelled_photos.csv"
N, CLASSES, FEATURES = 60, 10, 16


def onnx_matrix(path: Path, name: str) -> Array:
    return next(numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer if w.name == name)


def run_model(path: Path, feed: Array, tensor: str) -> Array:
    """A tensor of the graph, by a session of its own."""
    proto = onnx.load(path)
    if tensor not in {output.name for output in proto.graph.output}:
        proto.graph.output.append(onnx.ValueInfoProto(name=tensor))
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run([tensor], {proto.graph.input[0].name: feed})[0])


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


def in_seeded_order(model: Path) -> Array:
    """The images as the run takes them."""
    entries = open_images(str(model.with_name("images.npy")), seed=0, limit=None)
    return np.stack([item.values for item in entries.items()])  # type: ignore[union-attr]


def test_a_classifier_is_measured_as_an_independent_script_does(small: Path) -> None:
    report = measured(small, seed=0)
    h = run_model(small, in_seeded_order(small), "features")
    weight, bias = onnx_matrix(small, "fc.weight"), onnx_matrix(small, "fc.bias")
    assert (report.model.n_classes, report.model.n_features, report.model.tensor) == (CLASSES, FEATURES, "features")
    assert report.model.score_difference is not None
    assert report.model.score_difference < 1e-5
    for found, centred in ((report.raw, False), (report.centred, True)):
        directions_truth.assert_is_truth(found, directions_truth.truth(weight, bias, h, centred=centred), N)
    assert report.n_images == N
    made = normal(5, FEATURES, seed=3)
    np.save(small.with_name("head.npy"), made)
    report = measured(small, seed=0, head=small.with_name("head.npy"), tensor="features")
    assert (report.model.head, report.model.score_difference) == ("head.npy", None)
    directions_truth.assert_is_truth(report.raw, directions_truth.truth(made, np.zeros(5), h), N)


def ending(op: str, **attributes: Any) -> onnx.ModelProto:
    """The classifier with an operator behind its last layer."""
    model = classifier(CLASSES)
    (node,) = [node for node in model.graph.node if node.op_type == "Gemm"]
    node.output[0] = "linear"
    model.graph.node.append(helper.make_node(op, ["linear"], ["logits"], **attributes))
    return model


def test_probabilities_are_traced_to_the_linear_scores(small: Path, tmp_path: Path) -> None:
    """A model that ends in a softmax has the same directions; one whose scores are another function is refused."""
    probabilities = measured(save(tmp_path, ending("Softmax", axis=-1), "softmax.onnx"))
    assert probabilities.raw == measured(small).raw
    assert probabilities.model.score_difference is not None
    assert probabilities.model.score_difference < 1e-5
    with pytest.raises(CannotAssessError, match=r"class output differs from W·h \+ b by .*or sigmoid counted in"):
        measured(save(tmp_path, ending("Exp"), "exp.onnx"))


@pytest.mark.long
def test_the_real_head_of_efficientnet_lite0(efficientnet_lite0: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import contract, demo

    report = rc.directions(efficientnet_lite0, labelled=LABELLED, device="cpu")
    fields = contract.checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    photos = open_images(str(LABELLED)).entries
    feed = np.stack([contract.preprocess(fields, Image.open(str(photo.origin))) for photo in photos])
    h = run_model(efficientnet_lite0, feed, "representation")
    (gemm,) = [node for node in onnx.load(efficientnet_lite0).graph.node if node.op_type == "Gemm"]
    weight, bias = (onnx_matrix(efficientnet_lite0, name) for name in gemm.input[1:])
    assert weight.shape == (1000, 1280)
    directions_truth.assert_is_truth(  # float32 of two sessions
        report.raw, directions_truth.truth(weight, bias, h), 40, rtol=1e-4
    )
    rc.check(efficientnet_lite0, images=LABELLED, device="cpu", save_representations=tmp_path / "rows.npz")
    rows = rc.load_representations(tmp_path / "rows.npz").values  # what one session gives
    exact = directions_truth.truth(weight, bias, rows)
    directions_truth.assert_is_truth(report.raw, exact, 40, rtol=1e-6, of_largest=1e-6)
    assert report.in_distribution is not None
    assert report.in_distribution.accuracy.n_correct == 34  # as `shift` measures on these 40 photos


def coloured(folder: Path, *, names: tuple[str, ...] = ("0", "1", "2"), seed: int = 0) -> Path:
    """Images in folders that are class indices."""
    rng = default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
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
    assert any("1 of 60 images of in were skipped" in note for note in report.notes)
    for point in report.raw.curves[0].points:
        assert set(point.accuracy) == {"in", "out"}
        assert point.effective_robustness == {}
    assert report.raw.curves[0].points[0].kept == 9  # 90 % of 10 directions
    assert "in: 3 of 10 classes have images." in report.notes
    pixels = levels(12, 8, 8, 3, seed=1)
    apart = rc.directions(small, images=list(pixels), labelled=inside, **given)
    assert (apart.n_images, apart.in_distribution) == (12, report.in_distribution)
    assert any("Only 12 images" in note for note in apart.notes)


# ------------------------------------------------------------------------------------------------ documents


def command(model: Path, *words: object) -> int:
    images = ["--images", model.with_name("images.npy"), "--preprocess", "imagenet", "--device", "cpu"]
    return robustcheck("directions", model, *images, *words)


def test_the_command_reports_and_ends_with_0(small: Path, capsys: Capture) -> None:
    assert command(small, "-o", "json", "--no-time") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["schema_version"], document["kind"], document["shown"]) == (1, "directions", "raw")
    report = DirectionsReport.model_validate(document)
    assert report == but(measured(small), time=None)
    assert report.model_dump(mode="json") == document
    assert command(small, "-q", "-o", f"terminal={small.with_name('r.txt')}", "-v") == 0
    assert capsys.readouterr().out == f"{small}: {report.summary}\n"
    assert "the effective rank is" in report.summary
    text = " ".join(small.with_name("r.txt").read_text().split())
    assert report.summary in text
    assert "Information, not a verdict." in text
    assert "PASS" not in text
    assert "WARN" not in text


def test_the_terminal(small: Path, tmp_path: Path) -> None:
    report = rc.directions(small, labelled=coloured(tmp_path / "in"), preprocess="imagenet", device="cpu")
    points = report.raw.curves[0].points
    for width in (80, 120):
        text = shown(report, width, verbose=True)
        rows = re.findall(r"^ *(\d+) % +(\d+) +\S+ % ", text, re.MULTILINE)
        assert [(int(a), int(b)) for a, b in rows[:11]] == [(point.percent, point.kept) for point in points]
        assert ("by singular value, random: from" in text) == (width == 80)
        assert "top-1 by directions kept" in text
    assert "not compared: the head is not the model's own" in but(report, model__score_difference=None).to_markdown()


@pytest.mark.long
def test_a_notebook_shows_it(small: Path) -> None:
    report = measured(small)
    html = report._repr_html_()
    assert report.summary in html
    assert html.count("<tr>") == 12
    assert repr(report).startswith("DirectionsReport(model=")
    pandas = pytest.importorskip("pandas")
    frame = report.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert len(frame) == 66
    assert frame.loc["raw"].iloc[0]["same"] == report.raw.curves[0].points[0].same.value


@pytest.mark.process
def test_progress_and_a_child_behind_the_wall(small: Path, wall: None) -> None:
    del wall
    seen: list[Progress] = []
    through = measured(small, progress=seen.append)
    here = measured(small, isolate=False)
    assert but(through, time=None) == but(here, time=None)
    assert {"opening the model and the images", "loading the model", "decomposing the head"} <= {
        now.stage for now in seen
    }
    assert any(now.n_done == N for now in seen)


# ------------------------------------------------------------------------------------------------ bad input


def reweighted(name: str, value: float) -> onnx.ModelProto:
    """The classifier with one number in the place of a weight's values."""
    model = classifier(CLASSES)
    weight = next(each for each in model.graph.initializer if each.name == name)
    weight.CopyFrom(numpy_helper.from_array(np.full(tuple(weight.dims), value, np.float32), name))
    return model


def test_models_that_cannot_be_measured(tmp_path: Path, capsys: Capture) -> None:
    for proto, said in (
        (encoder(), "head is missing; the file has no class scores"),
        (reweighted("conv.weight", np.nan), "representation has values that are not finite"),
        (reweighted("fc.weight", np.inf), "weights of the head are not all finite"),
        (reweighted("fc.weight", 1.0), "are the same for all classes; a prediction must depend on the image"),
    ):
        assert command(save(tmp_path, proto), "-qq") == 3
        assert said in capsys.readouterr().err


def test_several_heads_are_refused(tmp_path: Path, capsys: Capture) -> None:
    """By the rule that finds the representation; with a head of the caller's own, its tensor is named."""
    text = "one = Gemm(features, w16x10); bent = Sigmoid(features); two = Gemm(bent, w16x10); logits = Add(one, two)"
    joined = written(text, ("logits", TensorProto.FLOAT, ("batch", 10)))
    model = save(tmp_path, joined)
    assert command(model) == 2
    assert "no single linear layer ends it: 2 heads are joined, which read bent, features" in capsys.readouterr().err
    np.save(tmp_path / "head.npy", normal(5, 16))
    assert command(model, "--head", tmp_path / "head.npy", "--tensor", "features", "-qq") == 0


def test_bad_head_files(tmp_path: Path, capsys: Capture) -> None:
    model = save(tmp_path, encoder(16))
    head = tmp_path / "head.npy"
    np.save(head, normal(5, 16))
    assert command(model, "--head", head, "-qq") == 0
    (tmp_path / "head.txt").write_text("1 2 3")
    (tmp_path / "torn.npy").write_bytes(head.read_bytes()[:90])
    np.save(tmp_path / "narrow.npy", np.ones((5, 15)))
    np.save(tmp_path / "nan.npy", np.full((5, 16), np.nan))
    for name, said in {
        "head.txt": "head is a .txt file; it must be .npy or .safetensors",
        "torn.npy": "head is not readable",
        "narrow.npy": "weight has shape (5, 15)",
        "nan.npy": "holds values that are not finite",
    }.items():
        assert command(model, "--head", tmp_path / name, "-qq") == 2, name
        assert said in " ".join(capsys.readouterr().err.split()), name


def test_bad_calls(small: Path, tmp_path: Path, capsys: Capture) -> None:
    odd, head = coloured(tmp_path / "odd", names=("0", "11")), tmp_path / "head.npy"
    np.save(head, normal(5, 16))
    for words, code, said in (
        (["--shifted", odd], 2, "--shifted is given without --in"),
        (["--classes", "sorted"], 2, "--classes is given without --in"),
        (["--in", odd], 2, "label is '11'; the model has 10 classes, 0 to 9"),
        (["--in", odd, "--baseline", "timn"], 2, "--baseline is 'timn'"),
        (["--tensor", "features"], 2, "--tensor or --pool is given without --head"),
        (["--max-images", "1"], 3, "number of images with a representation that is not constant is 1; at least 2"),
        (["--head", head, "-o", f"json={head}"], 2, "a report must not replace it"),
    ):
        assert command(small, *words) == code, words
        shown = capsys.readouterr()
        assert said in " ".join(shown.err.split()), words
        assert shown.out == ""


def test_images_without_a_direction_are_left_out(tmp_path: Path) -> None:
    """A black image of a rectified classifier without a bias: all features are zero."""
    model = save(tmp_path, classifier(CLASSES, bias=False))
    images = np.load(tmp_path / "images.npy")
    images[3] = 0
    np.save(tmp_path / "images.npy", images)
    report = measured(model)
    assert (report.n_images, report.n_left_out) == (N - 1, 1)
    assert any("1 image left out" in note for note in report.notes)


def test_notes_say_where_single_directions_mean_little(tmp_path: Path, small: Path) -> None:
    def notes(weight: Array) -> list[str]:
        np.save(tmp_path / "head.npy", weight)
        report = measured(small, head=tmp_path / "head.npy", tensor="features")
        return [note for note in report.notes if "direction" in note and "Only" not in note]

    rng = default_rng(0)
    assert notes(rng.normal(size=(8, 16))) == []
    of_rank_3 = rng.normal(size=(8, 3)) @ rng.normal(size=(3, 16))
    assert notes(of_rank_3) == ["5 of 8 directions weigh nothing: the head's matrix has rank 3."]
    orthogonal, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    (note,) = notes(2 * orthogonal[:6])
    assert note.startswith("5 singular values equal to the one before")
