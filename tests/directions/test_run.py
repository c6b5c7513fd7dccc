"""robustcheck directions: numbers against an independent script and the bootstrap, documents, bad input."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng as rng
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from scipy import stats

import robustcheck_onnx as rc
from robustcheck_onnx.checker.core.progress import Progress
from robustcheck_onnx.checker.core.statistics.intervals import wilson
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions.directions.analysis import Labelled, analyse
from robustcheck_onnx.checker.questions.directions.document import DirectionsReport
from robustcheck_onnx.checker.questions.directions.linear import pieces
from robustcheck_onnx.checker.questions.head import LinearHead
from robustcheck_onnx.checker.questions.shift import robustness
from robustcheck_onnx.exporters.preprocessing import checked_preprocessing, preprocess
from robustcheck_onnx.thresholds.published import IMAGENET
from support import ROOT, Capture, Fields, Patch, but, levels, normal, onnx_models, raised, robustcheck, truths
from support.comparisons import labelled_set, numbers, rotation
from support.onnx_models import classifier, encoder, written
from support.screens import shown
from support.truths import Array, activations


def head_of(weight: Array, bias: Array | None = None) -> LinearHead:
    return LinearHead(weight, np.zeros(len(weight)) if bias is None else bias, "a test")


def test_every_number_is_that_of_an_independent_script() -> None:
    for n_classes, d in [(60, 24), (24, 60), (2, 5), (30, 30)]:
        weight = normal(n_classes, d, seed=1) * rng(2).lognormal(0, 1, d) + normal(d, seed=3)
        bias, h = normal(n_classes, seed=4), (normal(91, d, seed=5) + normal(d, seed=6)).astype(np.float32)
        raw, centred, outliers = analyse(head_of(weight, bias), h, seed=3)
        for found, is_centred in ((raw, False), (centred, True)):
            expected = truths.of_head(weight, bias, h, centred=is_centred, seed=3)
            n, order = found.n_directions, expected["order"]
            assert n == len(expected["sigma"]) == min(n_classes - is_centred, d)
            truths.assert_is_of_head(found, expected, len(h))
            tried = sorted({int(np.ceil(n * percent / 100)) for percent in (*range(2, 101, 2), 5)})
            shares = [(expected["predicted"](order[:k]) == expected["first"]).mean() for k in tried]
            for fewest in found.fewest:  # from there on all keep the share
                too_few = [k for k, share in zip(tried, shares, strict=True) if share < fewest.share]
                assert fewest.directions == min(k for k in tried if k > max(too_few, default=0))
                assert fewest.percent == 100 * fewest.directions / n
        x = np.asarray(h, np.float64)
        (feature,) = outliers.features
        assert not outliers.persistent
        assert feature.index == (stats.zscore(x, axis=1) ** 4).sum(0).argmax()
        for replacement, value in zip(outliers.replacements, (x[:, feature.index].mean(), 0.0), strict=True):
            n_changed, share = truths.changed(weight, bias, h, [feature.index], value)
            assert replacement.changed == wilson(n_changed, len(h))
            assert replacement.margin_share.estimate == pytest.approx(share, rel=1e-6)


def test_an_outlier_feature_that_the_head_ignores_or_uses() -> None:
    """One feature is 30 in every image; the head has weights on it or none."""
    h, weight, nothing = normal(80, 64, seed=5), normal(10, 64, seed=7), pytest.approx(0, abs=1e-12)
    h[:, 7] += 30
    weight[:, 7] = 0.0
    raw, _, outliers = analyse(head_of(weight), h)
    assert outliers.persistent
    assert [(feature.index, feature.frequency) for feature in outliers.features] == [(7, 1.0)]
    for replacement in outliers.replacements:
        assert [replacement.changed.n_correct, replacement.margin_share.estimate] == [0, nothing]
    assert all([*each.on_features] == [nothing] for each in raw.leading)
    weight[:, 7] = np.linspace(-20, 20, 10)
    raw, _, outliers = analyse(head_of(weight), h)
    (by_mean, by_zero), first = outliers.replacements, raw.leading[0]
    assert by_zero.changed.value > 0.7  # the last class won by that feature alone
    assert by_mean.changed.value == 0  # its mean decides as well as itself
    assert min(by_zero.margin_share.estimate or 0, first.on_features[0]) > 0.9
    assert first.largest_feature == 7


def test_intervals_are_those_of_the_bootstrap() -> None:
    weight = normal(40, 20, seed=1) * rng(2).lognormal(0, 1, 20)
    h = normal(200, 20, seed=5) * rng(6).lognormal(0, 0.5, (200, 1)) + 2 * normal(20, seed=7)
    raw, _, outliers = analyse(head_of(weight), h)
    _, sigma, vt = np.linalg.svd(weight, full_matrices=False)
    weights = sigma * np.abs(h @ vt.T) / np.linalg.norm(h, axis=1)[:, None]
    scores = h @ weight.T
    best = np.argsort(-scores, axis=1)[:, :2]
    (feature,) = outliers.features
    by_feature = np.outer(h[:, feature.index], weight[:, feature.index])
    margin, given = (np.take_along_axis(of, best, axis=1) @ (1, -1) for of in (scores, by_feature))
    draws = []
    for number in range(2000):
        i = rng(number).integers(0, 200, 200)
        q = weights[i].mean(0) / weights[i].mean(0).sum()
        share = given[i].sum() / margin[i].sum()
        draws.append((1 / (q**2).sum(), np.exp(stats.entropy(q)), np.sort(q)[-3:].sum(), share))
    found = raw.participation_ratio, raw.effective_rank, raw.top[1].share, outliers.replacements[1].margin_share
    half = np.diff([numbers(interval.low, interval.high) for interval in found])[:, 0] / 2
    assert half / 1.96 == pytest.approx(np.std(draws, 0), rel=0.1)


def test_pieces_change_nothing(monkeypatch: Patch) -> None:
    """Scores of a few images at once, weights of a few classes at once."""
    weight, h = normal(50, 8), normal(33, 8, seed=1)
    right = [(label,) for label in rng(2).integers(0, 50, 33).tolist()]

    def found() -> Any:
        both = analyse(head_of(weight), h, labelled=[Labelled("a", h, right, range(50))])[:2]
        points = [point for each in both for curve in each.curves for point in curve.points]
        return [(p.same, p.same_confident, p.accuracy) for p in points]

    whole = found()
    for name, size in (("BLOCK_CLASSES", 7), ("BLOCK_VALUES", 120)):
        monkeypatch.setattr(f"robustcheck_onnx.checker.questions.directions.linear.{name}", size)
    assert [(piece.start, piece.stop) for piece in pieces(33, 50)][-2:] == [(30, 32), (32, 33)]
    assert found() == whole


def test_accuracy_of_a_pruned_head_is_that_of_its_matrix() -> None:
    weight, bias, h = normal(9, 6), normal(9, seed=1), normal(70, 6, seed=2)
    right = rng(3).integers(0, 6, (70, 2))  # of nine classes six compete
    labelled = Labelled("a", h, [(a, b) for a, b in right.tolist()], range(6))
    raw, _, _ = analyse(head_of(weight, bias), h, labelled=[labelled])
    assert all(list(point.accuracy) == ["a"] for curve in raw.curves for point in curve.points)
    vt = np.linalg.svd(weight)[2][[each.index for each in raw.leading]]
    for point in raw.curves[0].points:
        kept = vt[: point.kept]
        best = (h @ (weight @ kept.T @ kept).T + bias)[:, :6].argmax(1)
        assert point.accuracy["a"] == wilson(int((best[:, None] == right).any(axis=1).sum()), 70)


def test_effective_robustness_is_shifts_own() -> None:
    """Of whole, precise ImageNet sets; with few directions as with all."""
    n, weight = 2500, normal(1000, 3)
    right, labelled = [(i % 1000,) for i in range(n)], []
    for seed, name, shift, noise in ((1, "imagenet", IMAGENET, 0.1), (2, "v2", "imagenetv2", 0.4)):
        h = weight[np.arange(n) % 1000] + noise * normal(n, 3, seed=seed)
        facts: Fields = {"label_set": IMAGENET, "n_labels": 1000, "n_compete": 1000, "accuracy": wilson(2000, n)}
        result = labelled_set(name=name, shift=shift, **facts)
        labelled.append(Labelled(name, h.astype(np.float32), right, range(1000), result))
    raw, _, _ = analyse(head_of(weight), labelled[1].representations[:100], labelled=labelled)
    first = raw.curves[0].points[0]  # all three directions
    inner, outer = (but(each.result, accuracy=first.accuracy[each.name]) for each in labelled if each.result)
    expected, why = robustness.effective(inner, outer, "timm")
    assert (first.kept, first.effective_robustness, why) == (3, {"v2": expected}, "")


def test_classes_that_are_copies_of_each_other_change_nothing() -> None:
    """With two copies of every class rounding settles which of them wins: that is no other prediction."""
    weight, h = normal(120, 64, seed=1), normal(200, 64, seed=2).astype(np.float32)

    def found(head: Array) -> Any:
        raw, _, outliers = analyse(head_of(head), h)
        points = [point.same for curve in raw.curves for point in curve.points]
        return points, [each.changed for each in outliers.replacements]

    assert found(weight) == found(np.tile(weight, (3, 1)))


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
    report, source = measured(small), open_images(str(small.with_name("images.npy")), seed=0, limit=None)
    feed = np.stack([item.values for item in source.items()])  # type: ignore[union-attr]
    h = activations(small, ["features"], feed)["features"]
    weight, bias = onnx_matrix(small, "fc.weight"), onnx_matrix(small, "fc.bias")
    assert (report.model.n_classes, report.model.n_features, report.model.tensor) == (CLASSES, FEATURES, "features")
    assert report.n_images == N
    assert 0 <= numbers(report.model.score_difference) < 1e-5
    for found, centred in ((report.raw, False), (report.centred, True)):
        truths.assert_is_of_head(found, truths.of_head(weight, bias, h, centred=centred), N)
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
    from robustcheck_onnx.exporters import demo

    report = rc.directions(efficientnet_lite0, labelled=LABELLED, device="cpu")
    fields = checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    photos = open_images(str(LABELLED)).entries
    feed = np.stack([preprocess(fields, Image.open(str(photo.origin))) for photo in photos])
    h = activations(efficientnet_lite0, ["representation"], feed)["representation"]
    (gemm,) = [node for node in onnx.load(efficientnet_lite0).graph.node if node.op_type == "Gemm"]
    weight, bias = (onnx_matrix(efficientnet_lite0, name) for name in gemm.input[1:])
    assert weight.shape == (1000, 1280)
    rc.check(efficientnet_lite0, images=LABELLED, device="cpu", save_representations=tmp_path / "rows.npz")
    rows = rc.load_representations(tmp_path / "rows.npz").values
    for of, rtol, of_largest in ((h, 1e-4, 0), (rows, 1e-6, 1e-6)):  # float32 of two sessions; what one session gives
        truth = truths.of_head(weight, bias, of)
        truths.assert_is_of_head(report.raw, truth, 40, rtol=rtol, of_largest=of_largest)
    assert vars(report.in_distribution)["accuracy"].n_correct == 34  # as `shift` measures on these 40 photos


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
    notes = " ".join(report.notes)
    assert all(said in notes for said in ("1 of 60 images of in were skipped", "in: 3 of 10 classes have images."))
    assert "Only 12 images" in " ".join(apart.notes)
    for width in (80, 120):
        text = shown(report, width, verbose=True)
        rows = re.findall(r"^ *(\d+) % +(\d+) +\S+ % ", text, re.MULTILINE)
        assert rows[:11] == [(f"{point.percent}", f"{point.kept}") for point in points]
        assert ("by singular value, random: from" in text) == (width == 80)
        assert "top-1 by directions kept" in text


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
    text = " ".join(small.with_name("r.txt").read_text().split())
    assert "the effective rank is" in report.summary
    assert all(said in text for said in (report.summary, "Information, not a verdict."))
    assert not re.search("PASS|WARN", text)


@pytest.mark.long
def test_a_data_frame_has_a_row_per_point(small: Path) -> None:
    pytest.importorskip("pandas")
    report = measured(small)
    frame = report.to_frame()
    assert (len(frame), frame.loc["raw"].iloc[0]["same"]) == (66, report.raw.curves[0].points[0].same.value)


def test_progress_and_a_child_behind_the_wall(small: Path, wall: None) -> None:
    seen: list[Progress] = []
    through = measured(small, progress=seen.append)
    assert but(through, time=None) == but(measured(small, isolate=False), time=None)
    stages = {"opening the model and the images", "loading the model", "decomposing the head"}
    assert stages <= {now.stage for now in seen}
    assert any(now.n_done == N for now in seen)


def reweighted(name: str, value: float) -> onnx.ModelProto:
    """The classifier with one number in the place of a weight's values."""
    model = classifier(CLASSES)
    (weight,) = (each for each in model.graph.initializer if each.name == name)
    weight.raw_data = np.full(tuple(weight.dims), value, np.float32).tobytes()
    return model


def test_bad_calls(small: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """Several heads are refused by the rule that finds the representation; a head in a file needs a named tensor."""
    monkeypatch.chdir(tmp_path)
    joined = "one = Gemm(features, w16x10); bent = Sigmoid(features); two = Gemm(bent, w16x10); logits = Add(one, two)"
    for name, proto in {
        "encoder": encoder(FEATURES),
        "nan": reweighted("conv.weight", np.nan),
        "inf": reweighted("fc.weight", np.inf),
        "same": reweighted("fc.weight", 1.0),
        "joined": written(joined, ("logits", TensorProto.FLOAT, ("batch", 10))),
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
        ("model.onnx --in odd --baseline timn", 2, "'timn' is not one of 'timm', 'testbed'. Did you mean 'timm'?"),
        ("model.onnx --in odd --classes sorted", 2, "the in-distribution set, which has 2"),
        ("model.onnx --tensor features", 2, "--tensor or --pool is given without --head"),
        ("model.onnx --max-images 1", 3, "with a representation that is not constant is 1; at least 2"),
        ("model.onnx --head head.npy -o json=head.npy", 2, "head.npy: report path is a file that is there already"),
        ("encoder.onnx --head head.npy -qq", 0, ""),
        ("joined.onnx --head head.npy --tensor features -qq", 0, ""),
    ):
        model, *others = words.split()
        assert command(Path(model), *others) == code, words
        out, err = capsys.readouterr()
        assert (said in " ".join(err.split()), out) == (True, ""), words


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
