"""`robustcheck shift` as a whole: real photos against torch, classes told by a colour, and bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.shift import labels
from robustcheck_onnx.checker.shift.run import measure_shift
from robustcheck_onnx.thresholds import published
from robustcheck_onnx.thresholds.suite import open_suite
from support import ROOT, lookup, onnx_models
from support.benchmark_scripts import load

BIN = Path(sys.executable).parent
PHOTOS = ROOT / "tests" / "shift" / "labelled_photos.csv"


@pytest.fixture(scope="session")
def shifted_photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The labelled photos in four shifted versions, made by benchmarks/make_shifted.py."""
    module = load("make_shifted")
    made: dict[str, Path] = module.write(str(PHOTOS), tmp_path_factory.mktemp("shifted"))
    return made


@pytest.fixture(scope="module")
def real(efficientnet_lite0: Path, shifted_photos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The real classifier through the real command, on labelled real photos and four shifted versions."""
    out = tmp_path_factory.mktemp("real") / "shift.json"
    words = [word for path in shifted_photos.values() for word in ("--shifted", str(path))]
    command = [str(BIN / "robustcheck"), "shift", str(efficientnet_lite0), "--in", str(PHOTOS), *words, "-qq"]
    command += ["-o", f"json={out}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(out.read_text())


@pytest.mark.long
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


@pytest.mark.long
def test_each_prediction_is_torchs_own(real: Any, efficientnet_lite0: Path, shifted_photos: dict[str, Path]) -> None:
    """Independent path: the torch model on the exporter's pixels gives the same top-1 for each image."""
    torch = pytest.importorskip("torch", reason="extra `export` is not installed")
    from robustcheck_onnx.exporters import contract, demo, preprocess

    fields = contract.checked_preprocessing(demo.EFFICIENTNET_LITE0_PREPROCESSING, "test")
    model = demo.efficientnet_lite0()
    session = ort.InferenceSession(efficientnet_lite0, providers=["CPUExecutionProvider"])
    results = [real["in_distribution"], *(each["result"] for each in real["shifted"])]
    for result, spec in zip(results, [PHOTOS, *shifted_photos.values()], strict=True):
        if result["name"] not in ("labelled_photos", "sketch"):
            continue  # two of the five sets are enough, and fast
        source = open_images(str(spec))
        known = [labels.synset_index()[label] for label in labels.labels_of(source)]
        batch = np.stack([preprocess.apply(fields, Image.open(entry.origin)) for entry in source.entries])
        with torch.no_grad():
            truth = model(torch.from_numpy(batch))["logits"].argmax(dim=1).tolist()
        assert session.run(["logits"], {"image": batch})[0].argmax(axis=1).tolist() == truth
        assert result["accuracy"]["n_correct"] == sum(a == b for a, b in zip(truth, known, strict=True))


CODED_PX = 4  # edge of the images whose colour tells a class


def _coded_model(path: Path, build: Callable[..., onnx.ModelProto]) -> Path:
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


def test_effective_robustness_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """2 × 2000 images whose colour tells their class; a known share of them lies."""
    model = _coded_model(tmp_path / "coded.onnx", onnx_models.build)
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
    (["model.onnx", "--in", "val", "--shifted", "empty"], 3, "empty: number of images is 0 among"),
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
    (
        ["model.onnx", *BASE, "--report", "report.json"],
        2,
        "report.json: schema_version is None; this robust",
    ),
    (["model.onnx", *BASE, "--report", "gone.json"], 2, "gone.json: report is not readable"),
    (["model.onnx", *BASE, "--suite-entry", "gone/entry.toml"], 2, "folder gone is missing"),
    (["model.onnx", *BASE, "--suite-entry", "model.onnx"], 2, "path of --suite-entry is a file that this run reads"),
    (["model.onnx", *BASE, "--suite-entry", "out.json"], 2, "where a report goes too"),
    (["model.onnx", *BASE, "--device", "cuda:99"], 4, "cuda"),
]


@pytest.mark.parametrize(("words", "code", "said"), BAD, ids=[" ".join(words) for words, _, _ in BAD])
def test_bad_input(small: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str) -> None:
    before = sorted(small.rglob("*"))
    assert cli.main(["shift", *words, "--preprocess", "imagenet", "-qq", "-o", "json=out.json"]) == code
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
    assert cli.main([*words, "-qq"]) == 3
    assert "blur: number of unusable images is 1 of 3" in capsys.readouterr().err
    assert cli.main([*words, "-o", "json", "--max-bad", "0.5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shifted"][0]["result"]["n_skipped"] == 1
    assert found["shifted"][0]["result"]["accuracy"]["n"] == 2
    assert any(note.startswith("1 of 3 images of blur were skipped (3/broken.png: ") for note in found["notes"])


def test_a_suite_entry_that_cannot_be_made_leaves_the_report(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shift", "model.onnx", *BASE, "--preprocess", "imagenet", "-qq", "-o", "json=out.json"]
    assert cli.main([*words, "--suite-entry", "entry.toml"]) == 3
    assert "suite entry has accuracies on 0 sets" in capsys.readouterr().err
    assert not (small / "entry.toml").exists()
    assert json.loads((small / "out.json").read_text())["document"] == "shift"


def test_a_report_of_the_same_model_is_taken_and_of_another_refused(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        cli.main(["thousand.onnx", "--images", "val", "--preprocess", "imagenet", "-qq", "-o", "json=check.json"]) == 1
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

    from robustcheck_onnx.checker.shift import terminal

    result = measure_shift(small / "model.onnx", "val", ["blur"], preprocess="imagenet")
    for ascii_only in (False, True):
        console = Console(width=int(width), no_color=True)
        with console.capture() as captured:
            console.print(terminal.render(result, ascii_only=ascii_only))
        text = captured.get()
        assert max(map(len, text.splitlines())) <= int(width)
        assert text.isascii() == ascii_only
        assert "\\x" not in text  # no sign without a spelling
        for said in ("top-1", "blur", "nothing to compare", "WARN"):
            assert said in text


def test_an_encoder_without_head_cannot_be_measured(small: Path) -> None:
    with pytest.raises(CannotAssessError, match="class output is missing") as refused:
        measure_shift(small / "encoder.onnx", "val", ["blur"], preprocess="imagenet")
    assert "--zero-shot" in refused.value.hint
