"""`robustcheck shift` as a whole: real photos against torch, classes told by a colour, and bad input."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng
from PIL import Image

from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.shift import labels
from robustcheck_onnx.thresholds.suite import open_suite
from support import BIN, ROOT, Capture, colours, lookup, read_json, robustcheck
from support.colours import PX
from support.onnx_models import classifier, encoder, save
from support.scripts import load

PHOTOS = ROOT / "tests" / "shift" / "labelled_photos.csv"


@pytest.mark.long
def test_a_real_classifier_loses_accuracy_under_every_shift(efficientnet_lite0: Path, tmp_path: Path) -> None:
    """Independent path: the torch model on the exporter's pixels gives the same top-1 for each image."""
    torch = pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import contract, demo

    sets = {"in": str(PHOTOS), **load("benchmarks/make_shifted").write(str(PHOTOS), tmp_path)}
    _, *shifted = sets.values()
    command = [BIN / "robustcheck", "shift", efficientnet_lite0, "--in", PHOTOS, "--shifted", *shifted, "-qq"]
    done = subprocess.run([*command, "-o", f"json={tmp_path / 'o.json'}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    real = read_json(tmp_path / "o.json")
    assert [each["result"]["name"] for each in real["shifted"]] == ["sketch", "rendition", "texture", "blur"]
    for each in real["shifted"]:
        assert each["difference"]["high"] < 0  # worse beyond doubt, even on 40 photos
        assert "only these have a published baseline" in each["not_applicable"]
    assert (real["accuracies"], real["verdict"]["verdict"]) == ({}, "WARN")
    assert real["agreement"]["outcome"] == "nothing to compare"
    assert real["in_distribution"]["accuracy"]["value"] >= 0.75  # ImageNet top-1 of this model is published as 75.1 %
    fields = contract.checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    model = demo.efficientnet_lite0()
    for name, result in (("in", real["in_distribution"]), ("sketch", real["shifted"][0]["result"])):
        source = open_images(str(sets[name]))
        known = [labels.synset_index()[label] for label in labels.labels_of(source)]
        batch = np.stack([contract.preprocess(fields, Image.open(entry.origin)) for entry in source.entries])
        with torch.no_grad():
            truth = model(torch.from_numpy(batch))["logits"].argmax(dim=1).tolist()
        assert result["accuracy"]["n_correct"] == sum(a == b for a, b in zip(truth, known, strict=True))


def _coded_images(folder: Path, share_right: float, copies: int, *, start: int) -> None:
    """`copies` images of every class, in folders of its synset id; `share_right` of them show its colour."""
    rng = default_rng(start)
    for synset, index in labels.synset_index().items():
        (folder / synset).mkdir(parents=True)
        for copy in range(copies):
            shown = index if rng.random() < share_right else (index + 1) % 1000
            pixels = np.zeros((PX, PX, 3), dtype=np.uint8)
            pixels[..., 0], pixels[..., 1], pixels[0, 0, 2] = shown // 32 * 8, shown % 32 * 8, start + copy
            Image.fromarray(pixels).save(folder / synset / f"{copy}.bmp")


def test_effective_robustness_through_the_command(tmp_path: Path, capsys: Capture) -> None:
    """2 × 2000 images whose colour tells their class; a known share of them lies."""
    codes = np.array([[c // 32 * 8 / 255, c % 32 * 8 / 255, 0.0] for c in range(1000)])
    model = colours.classifier(tmp_path / "coded.onnx", codes)
    plain, entry, out = (tmp_path / name for name in ("plain.json", "entry.toml", "shift.json"))
    plain.write_text(json.dumps(lookup.lookup_preprocessing(PX)))
    _coded_images(tmp_path / "val", 0.85, 2, start=1)
    _coded_images(tmp_path / "sk", 0.85, 2, start=5)
    words = [model, "--in", f"imagenet={tmp_path / 'val'}", "--shifted", f"sketch={tmp_path / 'sk'}"]
    words += ["--preprocess", plain, "--suite-entry", entry, "-o", f"json={out}"]
    assert robustcheck("shift", *words) == 0
    found = read_json(out)
    (sketch,) = found["shifted"]
    inside, outside = found["in_distribution"]["accuracy"]["value"], sketch["result"]["accuracy"]["value"]
    assert [inside, outside] == pytest.approx([0.85, 0.85], abs=0.03)
    assert found["accuracies"] == {"imagenet1k": inside, "sketch": outside}
    assert (found["verdict"]["verdict"], found["agreement"]["outcome"]) == ("WARN", "no contradiction")
    assert "sketch has 2000 images; Sketch as published has 50889." in found["notes"]
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
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classifiers, an encoder and small labelled folders, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for name, model in {"model": classifier(10), "thousand": classifier(1000),
                        "encoder": encoder(), "nan": classifier(10)}.items():  # fmt: skip
        if name == "nan":
            model.graph.initializer[-1].raw_data = np.full(10, np.nan, np.float32).tobytes()
        save(model, tmp_path / f"{name}.onnx")
    rng = default_rng(0)
    for folder in ("val/0", "val/3", "blur/0", "blur/3", "loose"):
        (tmp_path / folder).mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / folder / "a.png")
    shutil.copytree(tmp_path / "val", tmp_path / "copy")
    (tmp_path / "list.txt").write_text("val/0/a.png\n")
    (tmp_path / "report.json").write_text('{"tool": "robustcheck"}')
    return tmp_path


BASE = ["--in", "val", "--shifted", "blur"]
BAD = [
    ("encoder", BASE, 3, "encoder.onnx: class output is missing; accuracy needs a model with class scores"),
    ("nan", BASE, 3, "class scores on val are not all numbers"),
    ("model", ["--shifted", "val"], 2, "--in is missing"),
    ("model", ["--in", "val", "--shifted", "copy"], 2, "copy: images are those of val"),
    ("model", ["--in", "val", "--shifted", "loose"], 2, "loose: image a.png has no label (1 of 1 have none)"),
    ("model", ["--in", "list.txt", "--shifted", "blur"], 2, "list.txt: image set is of kind list; labels come"),
    ("model", [*BASE, "--baseline", "tim"], 2, "--baseline is 'tim'; it must be one of timm, testbed"),
    ("model", [*BASE, "--report", "report.json"], 2, "report.json: schema_version is None; this robust"),
    ("model", [*BASE, "--suite-entry", "gone/entry.toml"], 2, "folder gone is missing"),
    ("model", [*BASE, "--suite-entry", "model.onnx"], 2, "path of --suite-entry is a file that this run reads"),
    (
        "model",
        [*BASE, "--classes", "r=list.txt", "-o", "json=list.txt"],
        2,
        "list.txt: report path is a file that this",
    ),
    ("model", [*BASE, "--suite-entry", "out.json"], 2, "which a report uses too"),
    ("model", [*BASE, "--device", "cuda:99"], 4, "cuda"),
]


def test_bad_input(small: Path, capsys: Capture) -> None:
    before = sorted(small.rglob("*"))
    for model, words, code, said in BAD:
        given = ["--preprocess", "imagenet", "-qq", "-o", "json=out.json"]
        assert robustcheck("shift", f"{model}.onnx", *words, *given) == code, said
        told = capsys.readouterr().err
        assert said in told
        assert told.startswith("error: ")
        assert "\nhint: " in told
        assert read_json(small / "out.json")["error"]["exit_code"] == code
        assert [path for path in sorted(small.rglob("*")) if path.name != "out.json"] == before


def test_an_image_that_cannot_be_used_is_counted_or_refused(small: Path, capsys: Capture) -> None:
    """Also: the same call gives the same document, whatever the batches; several sets may follow one option."""
    (small / "blur" / "3" / "broken.png").write_bytes(b"\x89PNG not really")
    shutil.copytree(small / "blur" / "3", small / "more" / "3")
    Image.new("RGB", (8, 8), "red").save(small / "more" / "3" / "a.png")
    words = ["shift", "model.onnx", *BASE, "more", "--preprocess", "imagenet", "-o", "json", "--no-time"]
    assert robustcheck(*words) == 3
    assert "blur: number of unusable images is 1 of 3" in capsys.readouterr().err
    told = []
    for batch_size in ("32", "1"):
        assert robustcheck(*words, "--max-bad", "0.5", "--batch-size", batch_size) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    found = json.loads(told[0])
    results = [each["result"] for each in found["shifted"]]
    assert [(each["name"], each["n_skipped"], each["accuracy"]["n"]) for each in results] == [
        ("blur", 1, 2), ("more", 1, 1),
    ]  # fmt: skip
    assert any(note.startswith("1 of 3 images of blur were skipped (3/broken.png: ") for note in found["notes"])


def test_a_suite_entry_that_cannot_be_made_leaves_the_report(small: Path, capsys: Capture) -> None:
    words = ["shift", "model.onnx", *BASE, "--preprocess", "imagenet", "-qq", "-o", "json=out.json"]
    assert robustcheck(*words, "--suite-entry", "entry.toml") == 3
    assert "suite entry has accuracies on 0 sets" in capsys.readouterr().err
    assert not (small / "entry.toml").exists()
    assert read_json(small / "out.json")["document"] == "shift"


def test_a_report_of_the_same_model_is_taken_and_of_another_refused(small: Path, capsys: Capture) -> None:
    assert (
        robustcheck("thousand.onnx", "--images", "val", "--preprocess", "imagenet", "-qq", "-o", "json=check.json") == 1
    )
    words = ["--in", "val", "--shifted", "blur", "--preprocess", "imagenet", "--report", "check.json", "-o", "json"]
    assert robustcheck("shift", "thousand.onnx", *words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"]["origin"] == "report check.json"
    assert found["verdict"]["verdict"] == "WARN"
    assert robustcheck("shift", "model.onnx", *words) == 2
    assert "check.json: model of the report has digest" in capsys.readouterr().err
