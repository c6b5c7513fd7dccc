"""Accuracy under shift: the numbers against SciPy, published values and torch; labels; the whole command."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from robustcheck_onnx.checker import cli, labels, shift
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.images import open_images
from robustcheck_onnx.checker.labels import Scores, class_map
from robustcheck_onnx.checker.shift import Judged, SetResult, Shifted, wilson
from robustcheck_onnx.thresholds import published, yardstick
from robustcheck_onnx.thresholds.suite import open_suite

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
PHOTOS = ROOT / "tests" / "labelled_photos.csv"
IMAGENET = published.IMAGENET
IN1K = Scores(1000)

# ------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(("n_correct", "n"), [(0, 1), (1, 1), (0, 40), (33, 40), (7, 40), (25_000, 50_000), (199, 200)])
def test_the_interval_is_scipys_wilson(n_correct: int, n: int) -> None:
    found = wilson(n_correct, n)
    truth = stats.binomtest(n_correct, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose([found.low, found.high], [truth.low, truth.high], atol=1e-12)
    assert found.low <= found.value <= found.high
    assert found.value == n_correct / n


@pytest.mark.parametrize(("n_correct", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_a_share_of_nothing_is_refused(n_correct: int, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(n_correct, n)


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:873-890, table II, method 10
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((5, 56), (0, 29), -0.0381, 0.1926)],
)
def test_the_difference_is_newcombes(first: tuple[int, int], second: tuple[int, int], low: float, high: float) -> None:
    found = shift.difference(wilson(*first), wilson(*second))
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=6e-5)


@given(st.integers(1, 12), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_a_prediction_is_the_largest_of_the_competing_scores(n: int, classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, classes))
    compete = sorted(rng.choice(classes, size=rng.integers(2, classes + 1), replace=False).tolist())
    truth = [compete[i] for i in scores[:, compete].argmax(axis=1)]  # NumPy's argmax over the columns
    right = [(int(rng.choice(compete)),) for _ in range(n)]
    found = shift.is_correct(scores, right, compete)
    assert found.tolist() == [guess == group[0] for guess, group in zip(truth, right, strict=True)]


def test_ties_infinities_and_several_right_classes() -> None:
    everything = (0, 1, 2)
    scores = np.array([[1.0, 1.0, 0.0], [np.inf, 1.0, 0.0], [-np.inf, -np.inf, -5.0], [2.0, 2.0, 1.0]])
    assert shift.is_correct(scores, [(0,), (0,), (2,), (0, 1)], everything).tolist() == [False, True, True, True]
    with pytest.raises(ValueError, match="NaN"):
        shift.is_correct(np.array([[np.nan, 1.0, 0.0]]), [(1,)], everything)
    # a NaN among classes that do not compete says nothing
    assert shift.is_correct(np.array([[np.nan, 1.0, 0.0]]), [(1,)], (1, 2)).tolist() == [True]


def test_an_untrained_model_that_scores_all_classes_alike_gets_nothing() -> None:
    assert not shift.is_correct(np.zeros((5, 3)), [(i % 3,) for i in range(5)], (0, 1, 2)).any()


# ----------------------------------------------------------------------------------------------- yardstick


def _csv(library: str) -> list[dict[str, str]]:
    with (published.DATA / f"published_{library}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", published.SHIFTS)
def test_testbeds_lines_are_scipys_over_its_standard_models(name: str) -> None:
    rows = [
        (float(row[IMAGENET]), float(row[name]))
        for row in _csv("testbed")
        if row["group"] == "standard" and "aws" not in row["model"] and "batch64" not in row["model"]
        and row[name] and float(row[IMAGENET]) >= 0.55 and float(row[name]) > 0
    ]  # fmt: skip
    x, y = (np.array(side) for side in zip(*rows, strict=True))
    truth = stats.linregress(np.log(x / (1 - x)), np.log(y / (1 - y)))
    line = yardstick.lines("testbed")[name]
    np.testing.assert_allclose([line.a, line.b], [truth.slope, truth.intercept], rtol=1e-9)
    assert line.n == len(rows) >= 80


def test_what_is_usual_is_the_published_spread() -> None:
    """science.md, section 4: mean ER over V2, Sketch, R, A of ImageNet-1k-only models: 5-95 % is -2.4 to +4.1."""
    found = yardstick.usual("timm", published.MEAN_SHIFTS)
    assert (found.n, round(found.median, 1), round(found.low, 1), round(found.high, 1)) == (1074, 0.1, -2.4, 4.1)
    assert found == pytest.approx(published.spread("in1k_only", "timm"))
    assert yardstick.lines("timm") == published.baselines()


# ------------------------------------------------------------------------------------- effective robustness


def _set(
    name: str | None, accuracy: float, n: int = 10_000, *, n_labels: int | None = None, label_set: str | None = None
) -> SetResult:
    classes = shift.CLASSES.get(name or "", 1000)
    found = wilson(round(accuracy * n), n)
    return SetResult(
        name=name or "mine",
        source="somewhere",
        shift=name,
        label_set=shift.LABEL_SET.get(name or "", "") if label_set is None else label_set,
        labels="labels",
        n_labels=classes if n_labels is None else n_labels,
        n_compete=classes,
        n_available=n,
        n_read=n,
        n_skipped=0,
        skipped=(),
        digest="sha256:0",
        accuracy=found,
    )


def _beside(inside: SetResult, *others: SetResult, source: str = "timm") -> list[Shifted]:
    return [shift._beside(inside, (), other, (), source) for other in others]


@pytest.mark.parametrize("source", yardstick.SOURCES)
@pytest.mark.parametrize("name", published.SHIFTS)
def test_effective_robustness_is_accuracy_beyond_the_line(source: str, name: str) -> None:
    found, why = shift.effective(_set(IMAGENET, 0.76), _set(name, 0.5), source)
    assert why == ""
    assert found is not None
    line = yardstick.lines(source)[name]
    expected = 1 / (1 + np.exp(-(line.a * np.log(0.76 / 0.24) + line.b)))
    assert found.expected == pytest.approx(expected)
    assert found.points == pytest.approx(100 * (0.5 - expected))
    assert not found.extrapolated
    # 97.5 % of each side: wider than either accuracy alone allows
    assert found.low < found.points - 0.9
    assert found.high > found.points + 0.9


def test_a_published_checkpoint_gets_its_published_value() -> None:
    """Counts made of the published accuracies give the published effective robustness back."""
    (row,) = published.find("open_clip", "ViT-B-32", "openai")
    inside = _set(IMAGENET, row.accuracy[IMAGENET], 50_000)
    for name in published.SHIFTS:
        found, _ = shift.effective(inside, _set(name, row.accuracy[name], 50_000), "timm")
        assert found is not None
        assert found.points == pytest.approx(row.effective_robustness_pp[name], abs=0.02)


NOT_APPLICABLE = [
    (_set(IMAGENET, 0.76), _set(None, 0.5), "not said to be one of V2, Sketch, R, A, ObjectNet"),
    (_set(None, 0.76), _set("sketch", 0.5), "not said to be ImageNet"),
    (_set(IMAGENET, 0.76, 400), _set("sketch", 0.5), "the 400 images of imagenet1k give its accuracy to within 4."),
    (_set(IMAGENET, 0.76), _set("sketch", 0.5, 400), "the 400 images of sketch"),
    (_set(IMAGENET, 0.76, n_labels=999), _set("sketch", 0.5), "999 of ImageNet's 1000 classes"),
    (_set(IMAGENET, 0.76), _set("imagenet_r", 0.5, n_labels=199), "199 of R's 200 classes"),
    (_set(IMAGENET, 0.76), _set("imagenet_r", 0.5, label_set="file"), "the labels of imagenet_r are not R's"),
    (_set(IMAGENET, 0.76), _set("objectnet", 0.5, n_labels=100), "100 of ObjectNet's 113 classes"),
    (_set(IMAGENET, 1.0), _set("sketch", 0.5), "accuracy on imagenet1k is 1"),
]


@pytest.mark.parametrize(("inside", "outside", "said"), NOT_APPLICABLE)
def test_no_effective_robustness_where_it_would_mean_nothing(inside: SetResult, outside: SetResult, said: str) -> None:
    found, why = shift.effective(inside, outside, "timm")
    assert found is None
    assert said in why


def _judged(verdict: Any) -> Judged:
    return Judged(verdict=verdict, reasons=(), profile="p", n_images=60, tensor="representation", origin="test")


@pytest.mark.parametrize(
    ("verdict", "sketch", "n", "outcome"),
    # expected on Sketch at 76 %: 24.6 %; 5-95 % of the models trained on ImageNet only: -3.4 to +3.6 points
    [
        ("PASS", 0.50, 10_000, "agree"),
        ("PASS", 0.25, 10_000, "disagree"),
        ("PASS", 0.05, 10_000, "disagree"),
        ("PASS", 0.282, 10_000, "undecided"),
        ("WARN", 0.25, 10_000, "agree"),
        ("WARN", 0.50, 10_000, "no contradiction"),
        ("WARN", 0.282, 10_000, "undecided"),
        ("PASS", 0.50, 100, "nothing to compare"),
    ],
)
def test_agreement_is_one_sided(verdict: str, sketch: float, n: int, outcome: str) -> None:
    inside = _set(IMAGENET, 0.76)
    found = shift.agree(_judged(verdict), inside, _beside(inside, _set("sketch", sketch, n)), "timm")
    assert found.outcome == outcome
    assert (found.mean_pp is None) == (outcome == "nothing to compare")


def test_below_the_baselines_range_nothing_is_compared() -> None:
    inside = _set(IMAGENET, 0.40)
    (each,) = _beside(inside, _set("sketch", 0.39))
    assert each.effective_robustness is not None
    assert each.effective_robustness.extrapolated
    found = shift.agree(_judged("PASS"), inside, [each], "timm")
    assert found.outcome == "nothing to compare"
    assert "extrapolated" in found.sentence


def test_the_mean_is_over_the_measured_shifts_and_leaves_objectnet_out() -> None:
    inside = _set(IMAGENET, 0.76)
    sets = [_set("imagenetv2", 0.66), _set("sketch", 0.3), _set("objectnet", 0.5)]
    beside = _beside(inside, *sets)
    found = shift.agree(_judged("WARN"), inside, beside, "timm")
    points = [each.effective_robustness.points for each in beside if each.effective_robustness]
    assert found.shifts == ("imagenetv2", "sketch")
    assert found.mean_pp == pytest.approx(np.mean(points[:2]))
    alone = shift.agree(_judged("WARN"), inside, beside[2:], "timm")
    assert alone.shifts == ("objectnet",)
    assert alone.usual_high_pp == pytest.approx(yardstick.usual("testbed", ("objectnet",)).high)


# -------------------------------------------------------------------------------------------------- labels


def test_the_class_table_is_timms() -> None:
    found = importlib.util.find_spec("timm")  # not imported: it takes torch along
    if found is None or found.origin is None:
        pytest.skip("extra `export` is not installed")
    folder = Path(found.origin).parent / "data" / "_info"
    synsets = (folder / "imagenet_synsets.txt").read_text().split()
    assert labels.synset_index() == {synset: index for index, synset in enumerate(synsets)}
    for word, letter in (("imagenet-r", "r"), ("imagenet-a", "a")):
        truth = [int(index) for index in (folder / f"imagenet_{letter}_indices.txt").read_text().split()]
        subset = class_map(word, [synsets[truth[0]]], IN1K, where="here")
        assert list(subset.compete) == sorted(truth)
        assert subset.n_labels == 200
        names = (folder / f"imagenet_{letter}_synsets.txt").read_text().split()
        assert {name for name in subset.indices if name.startswith("n")} == set(names)


def test_known_classes() -> None:
    """ImageNet-1k starts with the tench and ends with toilet tissue; the tabby is class 281."""
    found = class_map(None, ["n01440764", "n15075141", "n02123045"], IN1K, where="here")
    assert [found.indices[name] for name in ("n01440764", "n15075141", "n02123045", "281", "007")] == [
        (0,), (999,), (281,), (281,), (7,)
    ]  # fmt: skip
    assert len(found.compete) == 1000
    assert found.label_set == IMAGENET


def test_labels_that_speak_for_themselves() -> None:
    assert class_map(None, ["0", "3"], Scores(4), where="here").indices == {"0": (0,), "3": (3,)}
    named = Scores(3, ("cat", "dog", "crane"))
    assert class_map(None, ["dog"], named, where="here").indices["dog"] == (1,)
    by_order = class_map("sorted", ["b"], Scores(2), where="here", sorted_names=["b", "a"])
    assert by_order.indices == {"a": (0,), "b": (1,)}
    double = Scores(3, ("crane", "cat", "crane"))  # two classes of one name: that name says nothing
    assert set(class_map("names", ["cat"], double, where="here").indices) == {"cat"}


def test_imagenet_r_is_predicted_among_its_own_classes() -> None:
    found = class_map(None, ["n01443537"], IN1K, where="here", shift="imagenet_r")
    assert found.label_set == "imagenet_r"
    assert len(found.compete) == 200
    scores = np.zeros((1, 1000))
    scores[0, 0], scores[0, 1] = 2.0, 1.0  # the tench, which ImageNet-R does not have; the goldfish, which it has
    assert shift.is_correct(scores, [found.indices["n01443537"]], found.compete).tolist() == [True]
    assert shift.is_correct(scores, [(1,)], tuple(range(1000))).tolist() == [False]


def test_a_map_of_several_classes_a_label(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"cat": ["n02123045", 282, 285], "cup": 968}))
    found = class_map(str(path), ["cat", "cup"], IN1K, where="here", shift="objectnet")
    assert found.indices == {"cat": (281, 282, 285), "cup": (968,)}
    assert found.compete == (281, 282, 285, 968)
    path.write_text(json.dumps({"labels": {"cat": [281, 282, 285], "cup": 968}, "compete": "all"}))
    everything = class_map(str(path), ["cat"], IN1K, where="here")
    assert everything.compete == tuple(range(1000))
    assert (found.label_set, everything.label_set) == ("file", "")  # only the first is as published results are


BAD_MAPS = [
    ("[1, 2]", "class map is a JSON list"),
    ("{}", "class map is empty"),
    ("{", "class map is not readable JSON"),
    ('{"cat": 0, "cat": 1}', "key 'cat' occurs 2 times"),
    ('{"cat": 10}', "class of 'cat' is 10; the model has 10 classes, 0 to 9"),
    ('{"cat": -1}', "class of 'cat' is -1"),
    ('{"cat": true, "dog": 1}', "class of 'cat' is True"),
    ('{"cat": []}', "class of 'cat' is []"),
    ('{"cat": "n02123045"}', "class of 'cat' is 'n02123045'"),
    ('{"cat": [0, 1]}', "classes of 'cat' are all that compete"),
    ('{"labels": {"cat": 0}, "compete": "none"}', "compete is 'none'"),
    ('{"labels": {"cat": 0}, "competes": "all"}', "key 'competes' is unknown"),
    ('{"dog": 0, "bird": 1}', "label is 'cat' (1 images; 1 such labels)"),
]


@pytest.mark.parametrize(("text", "said"), BAD_MAPS)
def test_bad_maps(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(UsageError) as refused:
        class_map(str(tmp_path / "map.json"), ["cat"], Scores(10), where="here")
    assert said in refused.value.message
    assert refused.value.hint


BAD_LABELS: list[tuple[str | None, Sequence[str], Scores, str | None, str]] = [
    (None, ["n01440764"], Scores(10), None, "number of classes is 10; ImageNet's synset ids and indices are for 1000"),
    (None, ["0", "10"], Scores(10), None, "label is '10'; the model has 10 classes, 0 to 9"),
    (None, ["1000"], IN1K, None, "label is '1000'"),
    (None, ["n01440764", "tench"], IN1K, None, "label is 'tench'"),
    (None, ["n99999999"], IN1K, None, "label is 'n99999999'"),
    (None, ["dgo"], Scores(2, ("cat", "dog")), None, "the closest of the file's class names is 'dog'"),
    (None, ["n01440764"], IN1K, "imagenet_r", "label is 'n01440764'"),
    (None, ["chair"], IN1K, "objectnet", "class map is missing"),
    ("sorted", ["a"], Scores(3), None, "number of classes is 3; --classes sorted needs as many class folders"),
    ("names", ["a"], Scores(3), None, "class names are not in the file's contract"),
    ("imgenet", ["a"], IN1K, None, "--classes is 'imgenet'; it must be one of"),
]


@pytest.mark.parametrize(("spec", "known", "scores", "name", "said"), BAD_LABELS)
def test_bad_labels(spec: str | None, known: Sequence[str], scores: Scores, name: str | None, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        class_map(spec, known, scores, where="here", shift=name, sorted_names=["a", "b"])
    assert said in refused.value.message
    assert refused.value.hint


def test_the_names_of_a_call() -> None:
    inside, others, maps = shift.parse_call(
        "imagenet=val", ["ImageNet-V2=v2", "r=art", "some/blur"], ["r=map.json", "imagenet"]
    )
    assert inside == ("imagenet", "val", IMAGENET)
    assert others == [("ImageNet-V2", "v2", "imagenetv2"), ("r", "art", "imagenet_r"), ("blur", "some/blur", None)]
    assert maps == {"r": "map.json", "": "imagenet"}


def test_a_path_with_an_equals_sign_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "v2=x").mkdir()
    assert shift.parse_spec(str(tmp_path / "v2=x"), "--in").shift is None


@pytest.mark.parametrize(
    ("inside", "others", "classes", "said"),
    [
        ("a", ["a"], [], "image set is given twice"),
        ("a", ["x=./a"], [], "image set is given twice"),
        ("a/x", ["b/x"], [], "name of 2 image sets is 'x'"),
        ("a", ["v2=b", "imagenet-v2=c"], [], "set of 2 image sets is 'imagenetv2'"),
        ("a", ["b"], ["c=map.json"], "c is no image set of this call"),
        ("a", ["b"], ["x.json", "y.json"], "names a map for all sets twice"),
        ("a", [" "], [], "must be a labelled image set"),
        ("a", [], [], "--shifted is missing"),
    ],
)
def test_bad_calls(inside: str, others: list[str], classes: list[str], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        shift.parse_call(inside, others, classes)
    assert said in refused.value.message


# --------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="session")
def shifted_photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The labelled photos in four shifted versions, made by benchmarks/make_shifted.py."""
    spec = importlib.util.spec_from_file_location("make_shifted", ROOT / "benchmarks" / "make_shifted.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: dict[str, Path] = module.write(str(PHOTOS), tmp_path_factory.mktemp("shifted"))
    return made


@pytest.fixture(scope="module")
def real(efficientnet_lite0: Path, shifted_photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real classifier through the real command, on labelled real photos and four shifted versions."""
    out = tmp_path_factory.mktemp("real") / "shift.json"
    words = [word for path in shifted_photos.values() for word in ("--shifted", str(path))]
    command = [str(BIN / "robustcheck"), "shift", str(efficientnet_lite0), "--in", str(PHOTOS), *words, "-q"]
    command += ["-o", f"json={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(out.read_text())


@pytest.mark.export
def test_a_real_classifier_loses_accuracy_under_every_shift(real: Any) -> None:
    inside, shifted = real["in_distribution"], {each["result"]["name"]: each for each in real["shifted"]}
    assert list(shifted) == ["sketch", "rendition", "texture", "blur"]
    assert inside["accuracy"]["n"] == 40
    assert inside["accuracy"]["value"] >= 0.75  # ImageNet top-1 of this model is published as 75.1 %
    for each in shifted.values():
        assert each["difference"]["high"] < 0  # worse beyond doubt, even on 40 photos
        assert each["effective_robustness"] is None
        assert "only these have a published baseline" in each["not_applicable"]
    # blurred photos stay nearest to the photos
    blur = shifted.pop("blur")["result"]["accuracy"]["value"]
    assert all(blur > each["result"]["accuracy"]["value"] for each in shifted.values())
    assert real["accuracies"] == {}
    assert real["verdict"]["verdict"] == "WARN"
    assert real["agreement"]["outcome"] == "nothing to compare"


@pytest.mark.export
def test_each_prediction_is_torchs_own(real: Any, efficientnet_lite0: Path, shifted_photos: dict[str, Path]) -> None:
    """Independent path: the torch model on the exporter's pixels gives the same top-1 for each image."""
    torch = pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import contract, demo, pixels

    fields = contract.checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    model = demo.efficientnet_lite0()
    session = ort.InferenceSession(efficientnet_lite0, providers=["CPUExecutionProvider"])
    results = [real["in_distribution"], *(each["result"] for each in real["shifted"])]
    for result, spec in zip(results, [PHOTOS, *shifted_photos.values()], strict=True):
        if result["name"] not in ("labelled_photos", "sketch"):
            continue  # two of the five sets are enough, and fast
        source = open_images(str(spec))
        known = [labels.synset_index()[label] for label in labels.labels_of(source)]
        batch = np.stack([pixels.apply(fields, Image.open(entry.origin)) for entry in source.entries])
        with torch.no_grad():
            truth = model(torch.from_numpy(batch))["logits"].argmax(dim=1).tolist()
        assert session.run(["logits"], {"image": batch})[0].argmax(axis=1).tolist() == truth
        assert result["accuracy"]["n_correct"] == sum(a == b for a, b in zip(truth, known, strict=True))


CODED_PX = 4  # edge of the images whose colour tells a class


def _coded_model(path: Path, lookup: ModuleType, build: Callable[..., onnx.ModelProto]) -> Path:
    """1000 classes told by an image's colour: red = class // 32, green = class % 32, in steps of 8."""
    codes = np.array([[c // 32 * 8 / 255, c % 32 * 8 / 255, 0.0] for c in range(1000)])
    weights = {"w": (2 * codes.T).astype(np.float32), "b": (-(codes**2).sum(axis=1)).astype(np.float32)}
    nodes = [
        ("GlobalAveragePool", ["image"], ["pool"]),
        ("Flatten", ["pool"], ["features"]),
        ("Gemm", ["features", "w", "b"], ["logits"]),
    ]
    contract = lookup.lookup_contract(size_px=CODED_PX, source={"synthetic": "classes are read from a colour"})
    contract["tensors"] = {
        "representation": {"meaning": "colour", "rule": "head_input"},
        "logits": {"meaning": "class logits", "rule": "logits"},
    }
    nodes.append(("Identity", ["features"], ["representation"]))
    model = build(
        nodes,
        [("representation", 1, ("batch", 3)), ("logits", 1, ("batch", 1000))],
        weights,
        inputs=[("image", 1, ("batch", 3, CODED_PX, CODED_PX))],
        props={lookup.CONTRACT_KEY: json.dumps(contract)},
    )
    onnx.save(model, path)
    return path


def _coded_images(folder: Path, share_right: float, copies: int, *, start: int) -> None:
    """`copies` images of every class, in folders of its synset id; `share_right` of them show its colour."""
    rng = np.random.default_rng(start)
    for synset, index in labels.synset_index().items():
        (folder / synset).mkdir(parents=True)
        for copy in range(copies):
            shown = index if rng.random() < share_right else (index + 1) % 1000
            pixels = np.zeros((CODED_PX, CODED_PX, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1], pixels[0, 0, 2] = shown // 32 * 8, shown % 32 * 8, start + copy
            Image.fromarray(pixels).save(folder / synset / f"{copy}.bmp")


def test_effective_robustness_through_the_command(
    tmp_path: Path, lookup: ModuleType, onnx_models: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 × 2000 images whose colour tells their class; a known share of them lies."""
    model = _coded_model(tmp_path / "coded.onnx", lookup, onnx_models.build)
    _coded_images(tmp_path / "val", 0.85, 2, start=1)
    _coded_images(tmp_path / "sk", 0.85, 2, start=5)
    entry, out = tmp_path / "entry.toml", tmp_path / "shift.json"
    words = [str(model), "--in", f"imagenet={tmp_path / 'val'}", "--shifted", f"sketch={tmp_path / 'sk'}"]
    assert cli.main(["shift", *words, "--suite-entry", str(entry), "-o", f"json={out}"]) == 0
    found = json.loads(out.read_text())
    (sketch,) = found["shifted"]
    inside, outside = found["in_distribution"]["accuracy"]["value"], sketch["result"]["accuracy"]["value"]
    assert inside == pytest.approx(0.85, abs=0.03)
    assert outside == pytest.approx(0.85, abs=0.03)
    line = published.baselines()["sketch"]
    expected = 1 / (1 + np.exp(-(line.a * np.log(inside / (1 - inside)) + line.b)))
    assert sketch["effective_robustness"]["points"] == pytest.approx(100 * (outside - expected))
    assert found["accuracies"] == {"imagenet1k": inside, "sketch": outside}
    assert found["verdict"]["verdict"] == "WARN"
    assert found["agreement"]["outcome"] == "no contradiction"
    assert "sketch has 2000 images; Sketch as published has 50889" in found["notes"]
    told = capsys.readouterr().out
    assert "Effective robustness" in told
    assert "no contradiction" in told
    # the snippet is an entry that the suite's own reader takes
    suite = tmp_path / "suite.toml"
    suite.write_text('schema_version = 1\nname = "mine"\n' + entry.read_text() + 'label = "unlabelled"\n')
    (member,) = open_suite(suite).members
    assert member.entry.accuracies == pytest.approx(found["accuracies"], abs=1e-6)
    assert member.entry.model == "coded.onnx"


# --------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx_models: ModuleType) -> Path:
    """A 10-class model, an encoder, one that ends in ArgMax, and small labelled folders, in the current folder."""
    monkeypatch.chdir(tmp_path)
    onnx_models.save(onnx_models.classifier(10), tmp_path / "model.onnx")
    onnx_models.save(onnx_models.classifier(1000), tmp_path / "thousand.onnx")
    onnx_models.save(onnx_models.encoder(), tmp_path / "encoder.onnx")
    nan = onnx_models.classifier(10)
    nan.graph.initializer[-1].raw_data = np.full(10, np.nan, np.float32).tobytes()
    onnx_models.save(nan, tmp_path / "nan.onnx")
    nodes, weights = onnx_models.pooled()
    weights |= {"w": onnx_models.weight(16, 10), "b": onnx_models.weight(10)}
    nodes += [("Gemm", ["features", "w", "b"], ["scores"]), ("ArgMax", ["scores"], ["class"], {"axis": 1})]
    onnx_models.save(onnx_models.build(nodes, [("class", 7, ("batch", 1))], weights), tmp_path / "argmax.onnx")
    rng = np.random.default_rng(0)
    for folder in ("val/0", "val/3", "blur/0", "blur/3", "words/cat", "big/10", "synsets/n01440764", "objects/chair"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / folder / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "a.png").write_bytes((tmp_path / "val/0/a.png").read_bytes())
    (tmp_path / "again").symlink_to(tmp_path / "val")
    for folder in ("0", "3"):
        (tmp_path / "copy" / folder).mkdir(parents=True)
        (tmp_path / "copy" / folder / "b.png").write_bytes((tmp_path / "val" / folder / "a.png").read_bytes())
    (tmp_path / "manifest.csv").write_text("path,label\nval/0/a.png,0\nval/3/a.png,\n")
    (tmp_path / "list.txt").write_text("val/0/a.png\n")
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    (tmp_path / "report.json").write_text('{"tool": "robustcheck"}')
    return tmp_path


BASE = ["--in", "val", "--shifted", "blur"]
BAD: list[tuple[list[str], int, str]] = [
    (["encoder.onnx", *BASE], 3, "encoder.onnx: class output is missing; accuracy needs a model with class scores"),
    (["argmax.onnx", *BASE], 3, "class output 'class' has 1 values an image"),
    (["nan.onnx", *BASE], 3, "class scores on val are not all numbers"),
    (["none.onnx", *BASE], 2, "none.onnx"),
    (["model.onnx", "--in", "val"], 2, "--shifted is missing"),
    (["model.onnx", "--shifted", "val"], 2, "--in is missing"),
    (["model.onnx", "--in", "val", "--shifted", "again"], 2, "again: image set is given twice"),
    (["model.onnx", "--in", "val", "--shifted", "copy"], 2, "copy: images are those of val"),
    (["model.onnx", "--in", "val", "--shifted", "empty"], 2, "empty: number of images found is 0"),
    (["model.onnx", "--in", "val", "--shifted", "gone"], 2, "gone: image set is not readable"),
    (["model.onnx", "--in", "val", "--shifted", "loose"], 2, "loose: image a.png has no label (1 of 1 have none)"),
    (["model.onnx", "--in", "manifest.csv", "--shifted", "blur"], 2, "manifest.csv: image val/3/a.png has no label"),
    (["model.onnx", "--in", "list.txt", "--shifted", "blur"], 2, "list.txt: image set is of kind list; labels come"),
    (["model.onnx", "--in", "val", "--shifted", "x.npy"], 2, "x.npy: image set is of kind tensors; labels come"),
    (["model.onnx", "--in", "val", "--shifted", "words"], 2, "words: label is 'cat'"),
    (["model.onnx", "--in", "val", "--shifted", "big"], 2, "big: label is '10'; the model has 10 classes, 0 to 9"),
    (["model.onnx", "--in", "val", "--shifted", "synsets"], 2, "synsets: number of classes is 10; ImageNet's synset"),
    (["thousand.onnx", "--in", "val", "--shifted", "objectnet=objects"], 2, "objects: class map is missing"),
    (["model.onnx", *BASE, "--classes", "maps.json"], 2, "--classes is 'maps.json'; it must be one of"),
    (["model.onnx", *BASE, "--baseline", "tim"], 2, "--baseline is 'tim'; it must be one of timm, testbed"),
    (["model.onnx", *BASE, "--report", "report.json"], 2, "report.json: file is no JSON report of this robustcheck"),
    (["model.onnx", *BASE, "--report", "gone.json"], 2, "gone.json: report is not readable"),
    (["model.onnx", *BASE, "--suite-entry", "gone/entry.toml"], 2, "folder gone is missing"),
    (["model.onnx", *BASE, "--suite-entry", "model.onnx"], 2, "report path is a file that is read"),
    (["model.onnx", *BASE, "--suite-entry", "out.json"], 2, "where a report goes too"),
    (["model.onnx", *BASE, "--device", "cuda:99"], 4, "cuda"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input(small: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    before = sorted(small.rglob("*"))
    assert cli.main(["shift", *words, "--preprocess", "imagenet", "-q", "-o", "json=out.json"]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.startswith("error: ")
    assert "\nhint: " in told
    error = json.loads((small / "out.json").read_text())["error"]
    assert error["exit_code"] == code
    assert [path for path in sorted(small.rglob("*")) if path.name != "out.json"] == before


def test_an_image_that_cannot_be_used_is_counted_or_refused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "blur" / "3" / "broken.png").write_bytes(b"\x89PNG not really")
    words = ["shift", "model.onnx", *BASE, "--preprocess", "imagenet"]
    assert cli.main([*words, "-q"]) == 3
    assert "blur: number of unusable images is 1 of 3" in capsys.readouterr().err
    assert cli.main([*words, "-o", "json", "--max-bad", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shifted"][0]["result"]["n_skipped"] == 1
    assert found["shifted"][0]["result"]["accuracy"]["n"] == 2
    assert "1 images of blur could not be used and are not counted" in found["notes"]


def test_a_suite_entry_that_cannot_be_made_leaves_the_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shift", "model.onnx", *BASE, "--preprocess", "imagenet", "-q", "-o", "json=out.json"]
    assert cli.main([*words, "--suite-entry", "entry.toml"]) == 3
    assert "suite entry has accuracies on 0 sets" in capsys.readouterr().err
    assert not (small / "entry.toml").exists()
    assert json.loads((small / "out.json").read_text())["document"] == "shift"


def test_a_report_of_the_same_model_is_taken_and_of_another_refused(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["thousand.onnx", "--images", "val", "--preprocess", "imagenet", "-q", "-o", "json=check.json"]) == 1
    )
    words = ["--in", "val", "--shifted", "blur", "--preprocess", "imagenet", "--report", "check.json", "-o", "json"]
    assert cli.main(["shift", "thousand.onnx", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["origin"] == "report check.json"
    assert found["verdict"]["verdict"] == "WARN"
    assert cli.main(["shift", "model.onnx", *words]) == 2
    assert "check.json: model of the report has digest" in capsys.readouterr().err


def test_several_sets_may_follow_one_option(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "more" / "3").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(small / "more" / "3" / "a.png")
    words = ["--in", "val", "--shifted", "blur", "more", "--preprocess", "imagenet", "-o", "json"]
    assert cli.main(["shift", "model.onnx", *words]) == 0
    assert [each["result"]["name"] for each in json.loads(capsys.readouterr().out)["shifted"]] == ["blur", "more"]


def test_the_same_call_gives_the_same_document(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shift", "model.onnx", *BASE, "--preprocess", "imagenet", "-o", "json", "--no-time"]
    told = []
    for batch_size in ("32", "1"):
        assert cli.main([*words, "--batch-size", batch_size]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]


@pytest.mark.parametrize("width", ["80", "120"])
def test_the_terminal_report_fits_and_has_an_ascii_form(
    small: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    from rich.console import Console

    from robustcheck_onnx.checker import report_shift

    result = shift.measure_shift(small / "model.onnx", "val", ["blur"], preprocess="imagenet")
    for ascii_only in (False, True):
        console = Console(width=int(width), no_color=True)
        with console.capture() as captured:
            console.print(report_shift.render(result, ascii_only=ascii_only))
        text = captured.get()
        assert max(map(len, text.splitlines())) <= int(width)
        assert text.isascii() == ascii_only
        assert "\\x" not in text  # no sign without a spelling
        for said in ("top-1", "blur", "nothing to compare", "WARN"):
            assert said in text


def test_an_encoder_without_head_cannot_be_measured(small: Path) -> None:
    with pytest.raises(CannotAssessError, match="class output is missing") as refused:
        shift.measure_shift(small / "encoder.onnx", "val", ["blur"], preprocess="imagenet")
    assert "--zero-shot" in refused.value.hint
