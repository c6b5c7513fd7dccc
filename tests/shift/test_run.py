"""`robustcheck shift` as a whole, against torch and on coloured classes; effective robustness and its agreement."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image
from scipy import special, stats

from robustcheck_onnx.checker.core.statistics.intervals import wilson
from robustcheck_onnx.checker.outside.image_sets.open import open_images
from robustcheck_onnx.checker.questions.shift import robustness, sets
from robustcheck_onnx.checker.questions.shift.classes import synset_index
from robustcheck_onnx.checker.questions.shift.robustness import SetResult, Shifted, agree, compare_sets, effective
from robustcheck_onnx.thresholds import DATA, published
from robustcheck_onnx.thresholds.published import IMAGENET
from robustcheck_onnx.thresholds.suite import open_suite
from support import BIN, ROOT, Capture, Patch, but, levels, lookup, onnx_models, read_json, robustcheck
from support.comparisons import labelled_set
from support.onnx_models import COLOUR_PX, classifier, encoder, save
from support.repository import load

PHOTOS = ROOT / "tests" / "shift" / "labelled_photos.csv"


@pytest.mark.long
def test_a_real_classifier_loses_accuracy_under_every_shift(efficientnet_lite0: Path, tmp_path: Path) -> None:
    """Independent path: the torch model on the exporter's pixels gives the same top-1 for each image."""
    torch = pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import demo
    from robustcheck_onnx.exporters.preprocessing import checked_preprocessing, preprocess

    shifted = load("studies/make_shifted").write(str(PHOTOS), tmp_path)
    words = [BIN / "robustcheck", "shift", efficientnet_lite0, "--in", PHOTOS, "--shifted", *shifted.values(), "-qq"]
    done = subprocess.run([*words, "-o", "json"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    real = json.loads(done.stdout)
    assert [each["result"]["name"] for each in real["shifted"]] == ["sketch", "rendition", "texture", "blur"]
    for each in real["shifted"]:
        assert each["difference"]["high"] < 0  # worse beyond doubt, even on 40 photos
        assert "only these have a published baseline" in each["not_applicable"]
    assert (real["accuracies"], real["verdict"]["verdict"]) == ({}, "WARN")
    assert real["agreement"]["outcome"] == "nothing to compare"
    assert real["in_distribution"]["accuracy"]["value"] >= 0.75  # ImageNet top-1 of this model is published as 75.1 %
    fields = checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    model = demo.efficientnet_lite0()
    for place, result in ((PHOTOS, real["in_distribution"]), (shifted["sketch"], real["shifted"][0]["result"])):
        source = open_images(str(place))
        known = [synset_index()[label] for label in sets.labels_of(source)]
        batch = np.stack([preprocess(fields, Image.open(entry.origin)) for entry in source.entries])
        with torch.no_grad():
            truth = model(torch.from_numpy(batch))["logits"].argmax(dim=1)
        assert result["accuracy"]["n_correct"] == (truth.numpy() == known).sum()


CODES = [(code // 32 * 8, code % 32 * 8, 0) for code in range(1000)]
"""the colour of each class"""


def _coded_images(folder: Path, share_right: float, *, start: int) -> None:
    """Two images of every class, in folders of its synset id; `share_right` of them show its colour."""
    rng = default_rng(start)
    for synset, index in synset_index().items():
        (folder / synset).mkdir(parents=True)
        for copy in (start, start + 1):
            red, green, _ = CODES[index if rng.random() < share_right else (index + 1) % 1000]
            picture = Image.new("RGB", (COLOUR_PX, COLOUR_PX), (red, green, 0))
            picture.putpixel((0, 0), (red, green, copy))
            picture.save(folder / synset / f"{copy}.bmp")


def test_effective_robustness_through_the_command(tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    """2 × 2000 images whose colour tells their class; a known share of them lies."""
    monkeypatch.chdir(tmp_path)
    onnx_models.colour_classifier(Path("coded.onnx"), np.array(CODES) / 255)
    Path("plain.json").write_text(json.dumps(lookup.lookup_preprocessing(COLOUR_PX)))
    _coded_images(Path("val"), 0.85, start=1)
    _coded_images(Path("sk"), 0.85, start=5)
    words = "coded.onnx --in imagenet=val --shifted sketch=sk --preprocess plain.json --suite-entry entry.toml"
    assert robustcheck("shift", *words.split(), "-o", "json=shift.json") == 0
    found = read_json("shift.json")
    (sketch,) = found["shifted"]
    inside, outside = found["in_distribution"]["accuracy"]["value"], sketch["result"]["accuracy"]["value"]
    assert [inside, outside] == pytest.approx([0.85, 0.85], abs=0.03)
    assert found["accuracies"] == {"imagenet1k": inside, "sketch": outside}
    assert (found["verdict"]["verdict"], found["agreement"]["outcome"]) == ("WARN", "no contradiction")
    assert "sketch has 2000 images; Sketch as published has 50889." in found["notes"]
    assert re.search("Effective robustness.*no contradiction", capsys.readouterr().out, re.S)
    # the snippet is an entry that the suite's own reader takes
    entry, suite = Path("entry.toml").read_text(), Path("suite.toml")
    suite.write_text(f'schema_version = 1\nname = "mine"\n{entry}label = "unlabelled"\n')
    (member,) = open_suite(suite).members
    assert member.entry.accuracies == pytest.approx(found["accuracies"], abs=1e-6)
    assert member.entry.model == "coded.onnx"


# --------------------------------------------------------------------------------------------- bad input


@pytest.fixture
def small(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Classifiers, an encoder and small labelled folders, in the current folder."""
    monkeypatch.chdir(tmp_path)
    nan = classifier(10)
    nan.graph.initializer[-1].raw_data = np.full(10, np.nan, np.float32).tobytes()
    models = {"model": classifier(10), "thousand": classifier(1000), "encoder": encoder(), "nan": nan}
    for name, model in models.items():
        save(model, Path(f"{name}.onnx"))
    for seed, folder in enumerate(("val/0", "val/3", "blur/0", "blur/3", "loose")):
        Path(folder).mkdir(parents=True)
        Image.fromarray(levels(8, 8, 3, seed=seed)).save(f"{folder}/a.png")
    shutil.copytree("val", "copy")
    Path("list.txt").write_text("val/0/a.png\n")
    Path("report.json").write_text('{"tool": "robustcheck"}')
    return tmp_path


def shift(words: str, verb: str = "shift") -> int:
    return robustcheck(verb, *words.split(), "--preprocess", "imagenet")


def test_bad_input(small: Path, capsys: Capture) -> None:
    assert shift("thousand.onnx --images val -qq -o json=check.json", "check") == 1
    before = sorted(small.rglob("*"))
    for words, code, said in (
        ("encoder.onnx {}", 3, "encoder.onnx: class output is missing; accuracy needs a model with class scores"),
        ("nan.onnx {}", 3, "class scores on val are not all numbers"),
        ("model.onnx --shifted val", 2, "Missing option '--in'"),
        ("model.onnx --in val --shifted copy", 2, "copy: images are those of val"),
        ("model.onnx --in val --shifted loose", 2, "loose: image a.png has no label (1 of 1 have none)"),
        ("model.onnx --in list.txt --shifted blur", 2, "list.txt: image set is of kind list; labels come"),
        ("model.onnx --in bundled --shifted blur", 2, "image set is of kind bundled"),
        ("model.onnx {} --baseline tim", 2, "'tim' is not one of 'timm', 'testbed'"),
        ("model.onnx {} --report report.json", 2, "report.json: schema_version is None; this robust"),
        ("model.onnx {} --suite-entry gone/entry.toml", 2, "folder gone is missing"),
        ("model.onnx {} --suite-entry model.onnx", 2, "path of --suite-entry is a file that is there already"),
        ("model.onnx {} --classes r=list.txt -o json=list.txt", 2, "list.txt: report path is a file that is there"),
        ("model.onnx {} --suite-entry out.json", 2, "which a report uses too"),
        ("model.onnx {} --device cuda:99", 4, "cuda"),
        ("model.onnx {} --report check.json", 2, "check.json: model of the report has digest"),
    ):
        assert shift(f"{words} -qq -o json=out.json".format("--in val --shifted blur")) == code, said
        assert re.match(f"error: .*{re.escape(said)}.*\nhint: ", capsys.readouterr().err, re.S), said
        assert read_json(small / "out.json")["error"]["exit_code"] == code
        assert [path for path in sorted(small.rglob("*")) if path.name != "out.json"] == before
    assert shift("thousand.onnx --in val --shifted blur --report check.json -o json") == 0
    verdict = json.loads(capsys.readouterr().out)["verdict"]
    assert (verdict["origin"], verdict["verdict"]) == ("report check.json", "WARN")


def test_an_image_that_cannot_be_used_is_counted_or_refused(small: Path, capsys: Capture) -> None:
    """Also: the same call gives the same document, whatever the batches; several sets may follow one option."""
    (small / "blur/3/broken.png").write_bytes(b"\x89PNG not really")
    shutil.copytree("blur/3", "more/3")
    Image.new("RGB", (8, 8), "red").save("more/3/a.png")
    words = "model.onnx --in val --shifted blur more -o json --no-time"
    assert shift(words) == 3
    assert "blur: number of unusable images is 1 of 3" in capsys.readouterr().err
    told = set()
    for batch_size in (32, 1):
        assert shift(f"{words} --max-bad 0.5 --batch-size {batch_size}") == 0
        told.add(capsys.readouterr().out)
    (found,) = map(json.loads, told)
    results = [each["result"] for each in found["shifted"]]
    counts = [(each["name"], each["n_skipped"], each["accuracy"]["n"]) for each in results]
    assert counts == [("blur", 1, 2), ("more", 1, 1)]
    assert any(note.startswith("1 of 3 images of blur were skipped (3/broken.png: ") for note in found["notes"])


def test_a_suite_entry_that_cannot_be_made_leaves_the_report(small: Path, capsys: Capture) -> None:
    assert shift("model.onnx --in val --shifted blur -qq -o json=out.json --suite-entry entry.toml") == 3
    assert "suite entry has accuracies on 0 sets" in capsys.readouterr().err
    assert not (small / "entry.toml").exists()
    assert read_json("out.json")["document"] == "shift"


def test_testbeds_lines_are_scipys_over_its_standard_models() -> None:
    with (DATA / "published_testbed.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["group"] == "standard" and float(row[IMAGENET]) >= 0.55]
    rows = [row for row in rows if not re.search("aws|batch64", row["model"])]
    for name in published.SHIFTS:
        values = [(row[IMAGENET], row[name]) for row in rows if float(row[name] or 0) > 0]
        truth = stats.linregress(*special.logit(np.array(values, float)).T)
        line = published.baselines_of("testbed")[name]
        np.testing.assert_allclose([line.a, line.b], truth[:2], rtol=1e-9)
        assert line.n == len(values) >= 80
        assert name != "objectnet" or line == published.baselines_of("timm")[name]


def _set(name: str | None, accuracy: float, n: int = 10_000, **given: Any) -> SetResult:
    classes = robustness.CLASSES.get(name or "", 1000)
    return labelled_set(
        name=name or "mine",
        shift=name,
        **{"label_set": robustness.LABEL_SET.get(name or "", ""), "n_labels": classes} | given,
        n_compete=classes,
        accuracy=wilson(round(accuracy * n), n),
    )


def _beside(inside: SetResult, *others: SetResult) -> list[Shifted]:
    return [compare_sets(inside, (), other, (), "timm") for other in others]


@pytest.mark.parametrize("source", published.SOURCES)
@pytest.mark.parametrize("name", published.SHIFTS)
def test_effective_robustness_is_accuracy_beyond_the_line(source: str, name: str) -> None:
    found, why = effective(_set(IMAGENET, 0.76), _set(name, 0.5), source)
    line = published.baselines_of(source)[name]
    expected = special.expit(line.a * special.logit(0.76) + line.b)
    assert found is not None
    assert (found.expected, found.points) == pytest.approx((expected, 100 * (0.5 - expected)))
    assert (found.extrapolated, why) == (False, "")
    # 97.5 % of each side: wider than either accuracy alone allows
    assert found.low + 0.9 < found.points < found.high - 0.9


def test_no_effective_robustness_where_it_would_mean_nothing() -> None:
    inside, sketch = _set(IMAGENET, 0.76), _set("sketch", 0.5)
    for one, other, said in (
        (inside, _set(None, 0.5), "not named as one of V2, Sketch, R, A, ObjectNet"),
        (_set(None, 0.76), sketch, "not named as ImageNet"),
        (_set(IMAGENET, 0.76, 400), sketch, "the 400 images of imagenet1k give its accuracy to within 4."),
        (inside, _set("sketch", 0.5, 400), "the 400 images of sketch"),
        (but(inside, n_labels=999), sketch, "999 of ImageNet's 1000 classes"),
        (inside, _set("imagenet_r", 0.5, n_labels=199), "199 of R's 200 classes"),
        (inside, _set("imagenet_r", 0.5, label_set="file"), "the labels of imagenet_r are not R's"),
        (inside, _set("objectnet", 0.5, n_labels=100), "100 of ObjectNet's 113 classes"),
        (_set(IMAGENET, 1.0), sketch, "accuracy on imagenet1k is 1"),
    ):
        found, why = effective(one, other, "timm")
        assert (found, said in why) == (None, True), why


def _judged(verdict: Any) -> robustness.ComparedVerdict:
    return robustness.ComparedVerdict(verdict=verdict, reasons=(), profile="p", n_images=60, tensor="t", origin="test")


def test_agreement_is_one_sided() -> None:
    for verdict, sketch, n, outcome in [
        ("PASS", 0.50, 10_000, "agree"), ("PASS", 0.25, 10_000, "disagree"), ("PASS", 0.05, 10_000, "disagree"),
        ("PASS", 0.282, 10_000, "undecided"), ("WARN", 0.282, 10_000, "undecided"), ("WARN", 0.25, 10_000, "agree"),
        ("WARN", 0.50, 10_000, "no contradiction"), ("PASS", 0.50, 100, "nothing to compare"),
    ]:  # fmt: skip
        inside = _set(IMAGENET, 0.76)
        found = agree(_judged(verdict), inside, _beside(inside, _set("sketch", sketch, n)), "timm")
        assert (found.outcome, found.mean_pp is None) == (outcome, outcome == "nothing to compare")


def test_below_the_baselines_range_nothing_is_compared() -> None:
    inside = _set(IMAGENET, 0.40)
    found = agree(_judged("PASS"), inside, _beside(inside, _set("sketch", 0.39)), "timm")
    assert found.outcome == "nothing to compare"
    assert "extrapolated" in found.sentence


def test_the_mean_is_over_the_measured_shifts_and_leaves_objectnet_out() -> None:
    inside = _set(IMAGENET, 0.76)
    beside = _beside(inside, _set("imagenetv2", 0.66), _set("sketch", 0.3), _set("objectnet", 0.5))
    points = [each.effective_robustness.points for each in beside if each.effective_robustness]
    for some, shifts, mean, source in (
        (beside, ("imagenetv2", "sketch"), np.mean(points[:2]), "timm"),
        (beside[2:], ("objectnet",), points[2], "testbed"),
    ):
        found = agree(_judged("WARN"), inside, some, "timm")
        assert found.shifts == shifts
        assert found.mean_pp == pytest.approx(mean)
        assert found.usual_high_pp == pytest.approx(published.usual_robustness(source, shifts).high)


def test_the_bounds_of_a_mean_share_the_error_rate_between_all_its_accuracies() -> None:
    """Wilson intervals by SciPy, each at 1 − 5 % / 3: of ImageNet and of both shifts; lines in logits."""
    inside, shifts = _set(IMAGENET, 0.76), {"imagenetv2": 0.66, "sketch": 0.30}
    found = agree(_judged("WARN"), inside, _beside(inside, *(_set(name, p) for name, p in shifts.items())), "timm")
    bounds = [stats.binomtest(round(p * 10_000), 10_000).proportion_ci(1 - 0.05 / 3, "wilson")
              for p in (0.76, *shifts.values())]  # fmt: skip
    lines = [published.baselines_of("timm")[name] for name in shifts]
    a, b = np.array([(line.a, line.b) for line in lines]).T
    x, *ys = np.array(bounds)
    beyond = ys - special.expit(a[:, None] * special.logit(x[::-1]) + b[:, None])
    assert (found.low_pp, found.high_pp) == pytest.approx(100 * beyond.mean(axis=0), abs=1e-6)
