"""`robustcheck shift --target` as a whole, on classes told by a colour, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from rich.console import Console

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.shift import ShiftReport, measure_shift, predicted, terminal
from support import onnx_models

PX, CLASSES = 4, 4
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], dtype=np.float64)


def _model(path: Path, *, end: str = "", classes: int = CLASSES) -> Path:
    """Logits = 8 · similarity of an image's mean colour to that of each class; `end` is a last operator."""
    colours = COLOURS[:classes] / 255
    weights = {"w": (16 * colours.T).astype(np.float32), "b": (-8 * (colours**2).sum(axis=1)).astype(np.float32)}
    last = "scores" if end else "logits"
    nodes: list[Any] = [
        ("GlobalAveragePool", ["image"], ["pool"]),
        ("Flatten", ["pool"], ["features"]),
        ("Gemm", ["features", "w", "b"], [last]),
    ]
    if end:
        nodes.append((end, ["scores"], ["logits"]))
    outputs = [("logits", 1, ("batch", classes))]
    model = onnx_models.build(nodes, outputs, weights, inputs=[("image", 1, ("batch", 3, PX, PX))])
    onnx.save(model, path)
    return path


def _images(folder: Path, n: int, spread: float, seed: int, *, only: int | None = None) -> Path:
    """`n` images in folders of their class, each its colour mixed with a random one: `spread` of it."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        label = number % CLASSES if only is None else only
        share = spread * rng.random()
        colour = (1 - share) * COLOURS[label] + share * rng.uniform(0, 255, 3)
        pixels = np.clip(colour + rng.normal(0, 1, (PX, PX, 3)), 0, 255).astype(np.uint8)
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("target")
    for name, end in (("model", ""), ("softmax", "Softmax"), ("log", "LogSoftmax"), ("sigmoid", "Sigmoid")):
        _model(folder / f"{name}.onnx", end=end)
    _model(folder / "three.onnx", classes=3)
    onnx_models.save(onnx_models.encoder(), folder / "encoder.onnx")
    nan = onnx.load(_model(folder / "nan.onnx"))
    nan.graph.initializer[-1].CopyFrom(onnx.numpy_helper.from_array(np.full(4, np.nan, np.float32), "b"))
    onnx.save(nan, folder / "nan.onnx")
    (folder / "plain.json").write_text(
        json.dumps({
            "size": [PX, PX], "resize_mode": "squash", "resize_size": [PX, PX], "interpolation": "bicubic",
            "crop": "none", "mean": [0, 0, 0], "std": [1, 1, 1],
        })
    )  # fmt: skip
    _images(folder / "val", 200, 1.0, 0)
    _images(folder / "hard", 160, 1.6, 1)
    _images(folder / "one", 60, 0.1, 2, only=2)
    _images(folder / "few", 12, 1.0, 3)
    (folder / "flat").mkdir()
    for number, file in enumerate(sorted((folder / "val").rglob("*.png"))):
        (folder / "flat" / f"{number}.png").write_bytes(file.read_bytes())
    np.save(folder / "tensors.npy", np.random.default_rng(4).random((60, 3, PX, PX), dtype=np.float32))
    return folder


def _run(place: Path, *targets: str, model: str = "model.onnx", **options: Any) -> ShiftReport:
    options = {"preprocess": str(place / "plain.json")} | options
    return measure_shift(place / model, place / "val", target=[str(place / each) for each in targets], **options)


def _scores(place: Path, folder: str) -> tuple[np.ndarray, np.ndarray]:
    """Confidences and whether each image is right, in NumPy alone, in any order."""
    confidences, right = [], []
    for file in sorted((place / folder).rglob("*.png")):
        mean = np.asarray(Image.open(file), dtype=np.float64).mean(axis=(0, 1)) / 255
        logits = -8 * ((mean - COLOURS / 255) ** 2).sum(axis=1)
        p = np.exp(logits - logits.max())
        confidences.append((p / p.sum()).max())
        right.append(logits.argmax() == int(file.parent.name))
    return np.array(confidences), np.array(right)


def test_predictions_are_those_of_a_plain_script(place: Path) -> None:
    report = _run(place, "hard", shifted=[str(place / "hard")])
    found = report.predicted
    assert found is not None
    (target,) = found.targets
    (inside, right), (outside, truth) = _scores(place, "val"), _scores(place, "hard")
    assert report.in_distribution.accuracy.n_correct == right.sum()
    assert 0.7 < right.mean() < 0.99
    estimates = {each.method: each for each in target.estimates}
    assert list(estimates) == ["atc_confidence", "atc_entropy", "doc"]
    threshold = np.sort(inside)[(~right).sum()]
    assert estimates["atc_confidence"].accuracy == pytest.approx((outside >= threshold).mean(), abs=1 / 160)
    assert estimates["doc"].accuracy == pytest.approx(right.mean() - inside.mean() + outside.mean(), abs=1e-5)
    assert target.mean_confidence == pytest.approx(outside.mean(), abs=1e-5)
    for each in estimates.values():
        assert each.low is not None
        assert each.accuracy is not None
        assert each.high is not None
        assert each.low < each.accuracy < each.high
        assert each.drop_points == pytest.approx(100 * (right.mean() - each.accuracy))
        assert each.assumes
    # the same images were given with labels, too
    assert target.measured is not None
    assert target.measured.n_correct == truth.sum()
    assert target.measured == report.shifted[0].result.accuracy
    assert report.agreement.outcome == "nothing to compare"
    assert ShiftReport.model_validate_json(report.model_dump_json()) == report


def test_a_softmax_at_the_end_changes_no_prediction(place: Path) -> None:
    logits = _run(place, "hard").predicted
    assert logits is not None
    for model, kind in (("softmax.onnx", "probabilities"), ("log.onnx", "log-probabilities")):
        report = _run(place, "hard", model=model)
        found = report.predicted
        assert found is not None
        assert found.scores == kind
        for ours, theirs in zip(found.targets[0].estimates, logits.targets[0].estimates, strict=True):
            assert ours.accuracy == pytest.approx(theirs.accuracy, abs=1 / 160)
        assert any(f"The class output holds {kind}" in note for note in report.notes)


def test_too_few_images_and_one_class_are_told(place: Path) -> None:
    report = _run(place, "few", "one")
    assert report.predicted is not None
    few, one = report.predicted.targets
    assert {each.accuracy for each in few.estimates} == {None}
    assert {each.not_established for each in few.estimates} == {"12 usable target images; at least 50 are needed"}
    assert one.classes.n_classes == 1
    assert one.classes.top_share == 1
    assert "All images of one are predicted to be of one class." in report.notes
    report = _run(place, "hard", max_images=40)
    assert report.predicted is not None
    for each in report.predicted.targets[0].estimates:
        assert each.not_established == "40 labelled in-distribution images; at least 50 are needed"
    assert "hard: 40 of 160 images, drawn by seed." in report.notes


def test_classes_that_shift_and_classes_without_labels_are_told(place: Path, tmp_path: Path) -> None:
    _images(tmp_path / "part", 60, 0.9, 7)
    for file in (tmp_path / "part" / "3").iterdir():
        file.unlink()
    inside = tmp_path / "part"
    (inside / "3").rmdir()
    plain = str(place / "plain.json")
    report = measure_shift(place / "model.onnx", inside, target=str(place / "one"), preprocess=plain)
    assert any("The labelled images of part are of 3 of 4 classes" in note for note in report.notes)
    report = _run(place, "one")
    assert report.predicted is not None
    assert report.predicted.targets[0].classes.distance > 0.5
    assert not any("label shift" in note for note in report.notes)  # one class says it already
    _images(tmp_path / "two", 60, 0.1, 8, only=1)
    _images(tmp_path / "two", 20, 0.1, 9, only=2)
    report = _run(place, str(tmp_path / "two"))
    assert any("Other classes are predicted on two than on val" in note for note in report.notes)


def test_where_all_or_no_image_is_right_atc_is_not_established(place: Path, tmp_path: Path) -> None:
    _images(tmp_path / "easy", 60, 0.1, 5)
    report = measure_shift(
        place / "model.onnx", tmp_path / "easy", target=str(place / "hard"), preprocess=str(place / "plain.json")
    )
    assert report.predicted is not None
    confidence, entropy, doc = report.predicted.targets[0].estimates
    assert confidence.not_established == entropy.not_established
    assert confidence.not_established.startswith("every labelled image is predicted right; ATC's threshold needs")
    assert doc.accuracy is not None


def test_a_target_may_be_any_image_set_and_the_same_call_gives_the_same(place: Path) -> None:
    report = _run(place, "tensors.npy", "hard")
    assert report.predicted is not None
    assert report.predicted.targets[0].n_images == 60
    again = _run(place, "tensors.npy", "hard", batch_size=7)
    assert again.predicted == report.predicted


@pytest.mark.process
def test_behind_the_wall_it_is_the_same(place: Path, wall: None) -> None:
    del wall
    ours, theirs = (_run(place, "hard", isolate=isolate) for isolate in (True, False))
    assert ours.predicted == theirs.predicted


BAD: list[tuple[list[str], int, str]] = [
    (["sigmoid.onnx", "--target", "hard"], 3, "gives no confidence (it ends in Sigmoid: one yes or no for each class"),
    (["nan.onnx", "--target", "hard"], 3, "class scores on val are not all numbers"),
    (["model.onnx", "--target", "val"], 2, "val: image set is given twice"),
    (["model.onnx", "--target", "flat"], 2, "flat: images are those of val; a target must have other images"),
    (["model.onnx", "--target", "hard", "x=hard"], 2, "hard: image set is given twice"),
    (["model.onnx", "--target", "gone"], 2, "gone: image set is not readable"),
    (["model.onnx", "--target", " "], 2, "it must be an image set, [NAME=]PATH"),
    (["model.onnx", "--target", "hard", "--shifted", "one", "few"], 2, "few: set is given without an option"),
    (["model.onnx", "--target", "hard", "--classes", "hard=names"], 2, "hard is no image set of this call"),
    (["three.onnx", "--target", "hard"], 2, "val: label is '3'; the model has 3 classes"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(place)
    out = tmp_path / "out.json"
    call = ["shift", words[0], "--in", "val", *words[1:], "--preprocess", "plain.json", "-qq", "-o", f"json={out}"]
    assert cli.main(call) == code
    told = capsys.readouterr().err
    assert said in told
    assert "\nhint: " in told
    assert json.loads(out.read_text())["error"]["exit_code"] == code


def test_a_negative_seed_is_a_seed(place: Path) -> None:
    report = _run(place, "hard", seed=-1)
    assert report.seed == -1
    assert report.predicted is not None
    assert report.predicted.targets[0].estimates[0].accuracy is not None


def test_a_model_without_class_scores_cannot_predict(place: Path) -> None:
    with pytest.raises(CannotAssessError, match=r"encoder\.onnx: class output is missing"):
        _run(place, "hard", model="encoder.onnx", preprocess="imagenet")


def test_scores_that_are_not_finite_on_the_target_alone(place: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "huge.npy", np.full((60, 3, PX, PX), 3e38, np.float32))
    with pytest.raises(CannotAssessError, match=r"huge\.npy are not all numbers"):
        _run(place, str(tmp_path / "huge.npy"))


# ------------------------------------------------------------------------------------------------ what is shown


def _shown(report: ShiftReport, width: int, *, ascii_only: bool = False) -> str:
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        console.print(terminal.render(report, ascii_only=ascii_only))
    return captured.get()


@pytest.fixture(scope="module")
def report(place: Path) -> ShiftReport:
    return _run(place, "hard", "few", shifted=[str(place / "hard")], isolate=False)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_terminal_report_fits(report: ShiftReport, width: int, ascii_only: bool) -> None:
    text = _shown(report, width, ascii_only=ascii_only)
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii() == ascii_only
    assert "\\x" not in text
    words = " ".join(text.split())
    for said in (
        "ATC, confidence",
        "not established",
        "measured",
    ):
        assert said in words
    assert "accuracy falls by as many points as the mean confidence does" in words
    assert "predictions, not measurements" in words


def test_what_repr_notebook_and_one_line_say(report: ShiftReport) -> None:
    assert "predicted={'hard': '" in repr(report)
    assert "'few': 'not established'" in repr(report)
    html = report._repr_html_()
    for said in ("ATC, entropy", "predicted top-1", "12 usable target images", "change no verdict"):
        assert said in html
    assert "predicted accuracy on few: not established" in terminal.one_line(report)


def test_python_takes_one_target_as_a_text(place: Path) -> None:
    with pytest.raises(UsageError, match="--shifted is missing"):
        measure_shift(place / "model.onnx", place / "val")
    assert predicted.MIN_IMAGES == 50
