"""Forms of an int8 file: what is measured of them, which is chosen, and what the user sees of that."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from PIL import Image

from robustcheck_onnx.checker.compare import pairs
from robustcheck_onnx.checker.compare.index import KS, IndexOptions, compare_vectors
from robustcheck_onnx.checker.compare.judge import TOLERANCE
from robustcheck_onnx.checker.evidence import OUTLIER_SD
from robustcheck_onnx.checker.model.file import read_onnx
from robustcheck_onnx.checker.model.int8 import saturating_pairs
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime.devices import int8_sums
from robustcheck_onnx.checker.statistics import definitions
from robustcheck_onnx.checker.statistics import state as sums
from robustcheck_onnx.exporters import contract, files, forms
from robustcheck_onnx.exporters.forms import FORMS, Form, Kept, Tried
from support import PHOTOS, Capture, Fields, Patch, lookup, onnx_models, raised, robustcheck
from support.onnx_models import Array
from support.torch_models import contract_of, exported, images_of, left_in, outputs_of, refused

OUT = Path("int8.onnx")
PREPROCESSING = {"size": [8, 8], "resize_mode": "squash", "resize_size": [8, 8], "interpolation": "bilinear"}
PREPROCESSING |= {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
GOOD = Kept(0.95, 0.9, 1)


def test_the_limits_are_those_of_a_comparison() -> None:
    options = IndexOptions()
    assert (options.min_cosine, options.min_recall, KS[-1]) == (forms.MIN_COSINE, forms.MIN_RECALL, forms.NEIGHBOURS)
    assert (forms.OUTLIER_SD, forms.PERSISTENT_SHARE) == (OUTLIER_SD, definitions.PERSISTENT_SHARE)
    assert (forms.KEPT_SHARE, forms.MIN_CORRELATION) == (1 - TOLERANCE, pairs.MIN_CORRELATION)
    assert forms.CONFIDENCE == definitions.CONFIDENCE


def planted(seed: int) -> Array:
    """48 vectors of 300 features, of which two stand out, one on either side."""
    random = default_rng(seed)
    rows = random.standard_normal((48, 300))
    rows[:, 7] = 9 + 2 * random.standard_normal(48)
    rows[:, 20] = -9 - 2 * random.standard_normal(48)
    return rows.astype(np.float32)


def compared(reference: Array, rows: Array) -> Kept:
    """What `compare` finds."""
    images = [(f"{i}.jpg", str(i)) for i in range(len(rows))]
    numbers = compare_vectors(rows, reference, images, IndexOptions(), None, None).numbers
    pair = pairs.Pair(pairs.Side(sums.State(rows.shape[1])), pairs.Side(sums.State(rows.shape[1])))
    pairs.update(pair, rows, reference, np.arange(len(rows)))
    reference_statistics = sums.statistics(pair.reference.state, 0.05)
    fates = pairs.follow_features(pair.candidate, pair.reference, reference_statistics, TOLERANCE)
    features = sum(fate.persistent and fate.fate == "kept" for fate in fates)
    cosine, recall = (numbers[name].estimate for name in ("cosine, worst 5 %", "recall@10 among the photos"))
    assert cosine is not None
    assert recall is not None
    return Kept(cosine, recall, features)


def test_what_is_kept_is_what_a_comparison_finds() -> None:
    truth, other = planted(0), default_rng(1).standard_normal((48, 300)).astype(np.float32)
    assert forms.outlier_features(truth) == {7: 1.0, 20: -1.0}
    lost, apart, turned = truth.copy(), truth.copy(), truth.copy()
    lost[:, 7] = other[:, 7]
    apart[:, 20] = np.roll(truth[:, 20], 1)
    turned[:, 7] *= -1
    close, far = truth + 0.3 * other, truth + 3 * other
    for rows, features in ((truth, 2), (close, 2), (lost, 1), (apart, 1), (turned, 1), (far, 0), (other, 0)):
        seen, expected = forms.kept(truth, rows), compared(truth, rows)
        assert seen == pytest.approx(expected, abs=1e-6)
        assert seen.features == features


def test_vectors_without_a_direction_never_hold() -> None:
    for wrong in (0, np.nan, np.inf):
        rows = planted(0)
        rows[3:9] = wrong
        assert not Tried(FORMS[0], 1, 1, GOOD, forms.kept(planted(0), rows), 2).holds


def test_a_form_holds_if_it_keeps_everything_by_both_arithmetics() -> None:
    assert Tried(FORMS[0], 5, 9, GOOD, GOOD, 1).holds
    for worse in (Kept(0.899, 0.9, 1), Kept(0.95, 0.799, 1), Kept(0.95, 0.9, 0), Kept()):
        assert not Tried(FORMS[0], 5, 9, worse, GOOD, 1).holds
        assert not Tried(FORMS[0], 5, 9, GOOD, worse, 1).holds
    assert not Tried(FORMS[0], 5, 9, GOOD, GOOD, 1, "disagrees").holds


def test_the_smallest_is_chosen_and_of_equally_small_ones_the_first_that_is_the_same_on_every_cpu() -> None:
    def chosen(*sizes: int, faults: str = "") -> str:
        tried = [Tried(form, size, 9, GOOD, GOOD, 1) for form, size in zip(FORMS, sizes, strict=False)]
        tried = [each._replace(fault="x") if each.form.name in faults else each for each in tried]
        best = forms.smallest(tried)
        return "" if best is None else best.form.name

    names = [form.name for form in FORMS]
    assert names[:3] == ["uint8-weights", "7-bit-weights", "int8-weights"]
    assert chosen(105, 105, 105, 100) == "uint8-weights"
    assert chosen(106, 106, 50, 100) == "16-bit-activations"
    assert chosen(105, 105, 105, 100, faults="uint8-weights") == "7-bit-weights"
    assert chosen(105, 105, 105, faults="uint8-weights, 7-bit-weights") == ""


WHITE = np.ones((3, 8, 8), np.float32)


@pytest.fixture
def saturating(tmp_path: Path) -> Path:
    """Of a white image, half of what the second of three layers sums are pairs that saturate, in int8 weights."""
    weights = {"many": np.ones((192, 16), np.float32)}
    weights["many"][1::2, 1::2] = 0
    weights |= {"same": np.eye(192, dtype=np.float32), "few": np.eye(16, dtype=np.float32)}
    nodes = onnx_models.graph(
        "flat = Flatten(image); a = MatMul(flat, same); b = MatMul(a, many); representation = MatMul(b, few)"
    )
    return onnx_models.save(onnx_models.build(nodes, ["representation"], weights), tmp_path / "m.onnx")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_sums_of_a_form_are_the_same_on_every_cpu_or_it_is_named(saturating: Path, form: Form) -> None:
    white = saturating.with_name("white.png")
    Image.new("L", (8, 8), 255).save(white)
    files.quantise(saturating, "int8-qdq", [white], lambda _: WHITE, name="m", form=form)
    read = read_onnx(saturating)
    assert bool(saturating_pairs(read.proto, read.weights)) is not form.is_same_everywhere
    share = 1.0 if form.is_same_everywhere else int8_sums().plain
    rows = outputs_of(saturating, WHITE[None])["representation"]
    np.testing.assert_allclose(rows[0], [192 * share, 96] * 8, atol=4 * 192 / 255)


def kinds(path: Path) -> dict[str, str]:
    """The type of each weight, and of the activations, that a file stores in integers."""
    values = {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    found = {
        name.removesuffix("_quantized"): v.dtype.name
        for name, v in values.items()
        if v.ndim == 2 and v.dtype.kind in "iu"
    }
    zeros = {v.dtype.name for name, v in values.items() if name.startswith("a_") and name.endswith("zero_point")}
    return found | {"activations": "".join(zeros)}


def test_each_form_is_what_its_name_says(saturating: Path) -> None:
    ends = {"same", "few"}
    for form in FORMS:
        path = files._copied(saturating, form.name)
        files.quantise(path, "int8-qdq", [PHOTOS[0]], lambda _: WHITE, name="m", form=form)
        stored = "int8" if form.name in ("int8-weights", "7-bit-weights") else "uint8"
        expected = dict.fromkeys({"many"} if form.name == "float-ends" else {"many", *ends}, stored)
        assert kinds(path) == expected | {"activations": "uint16" if "16" in form.name else "uint8"}


@pytest.fixture
def small(tmp_path: Path) -> list[Path]:
    """Bundled photos, 16 × 16."""
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{photo.stem}.png" for photo in PHOTOS[:60]]
    for photo, path in zip(PHOTOS, paths, strict=False):
        Image.open(photo).convert("RGB").resize((16, 16)).save(path)
    return paths


@pytest.fixture
def encoder(small: list[Path], tmp_path: Path, monkeypatch: Patch) -> Path:
    """An fp32 file with its contract."""
    monkeypatch.chdir(tmp_path)
    model = onnx_models.encoder(64, output="representation")
    text = json.dumps(lookup.lookup_contract() | {"preprocessing": PREPROCESSING})
    onnx.helper.set_model_props(model, {"robustcheck.contract": text})
    return onnx_models.save(model, "fp32.onnx")


def int8(encoder: Path, small: list[Path], **options: Any) -> files.ExportRecord:
    """Export with 40 photos to measure forms on, and 20 for the ranges."""
    options = {"precision": "int8-qdq", "photos": small[:40], "calibration": small} | options
    return exported("onnx", str(encoder), OUT, **options)


def test_the_contract_has_the_form_and_what_it_keeps_by_both_arithmetics(encoder: Path, small: list[Path]) -> None:
    record = int8(encoder, small)
    (chosen,) = (each for each in record.forms if each.form.name == record.form)
    assert [each.form for each in record.forms] == list(FORMS)
    assert chosen == forms.smallest(record.forms)
    assert record.calibrated_on == 20
    fields = contract.checked_preprocessing(contract_of(OUT)["preprocessing"], "photos")
    images = images_of(small[:40], fields)
    rows, truth = (
        np.concatenate([outputs_of(path, image[None])["representation"] for image in images]) for path in (OUT, encoder)
    )
    recorded = contract_of(OUT)["parity"]["form"]
    keeps = compared(truth, rows)
    assert keeps.cosine < 1
    assert recorded["plain"] == pytest.approx(keeps._asdict(), abs=1e-6)
    assert recorded["exact"] == pytest.approx(keeps._asdict(), abs=1e-6)
    assert (recorded["name"], recorded["photos"], recorded["outlier_features"]) == (record.form, 40, 0)
    read = open_model(OUT).contract
    assert read is not None
    assert read.parity is not None
    assert read.parity.form is not None
    assert read.parity.form.name == record.form
    assert left_in() == ["fp32.onnx", "int8.onnx", "photos"]


def test_one_form_is_written_as_asked_if_it_is_faithful(encoder: Path, small: list[Path], capfd: Capture) -> None:
    words = ["--precision", "int8-qdq", "--form", "int8-weights", "--parity-images", small[0].parent]
    words += ["--calibration-images", small[0].parent, "-o", OUT]
    assert robustcheck("export", "onnx", encoder, *words) == 0
    out = capfd.readouterr().out
    assert "MB, int8-qdq int8-weights, outputs representation" in out
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["form", "int8-weights"]
    assert contract_of(OUT)["parity"]["form"]["name"] == "int8-weights"
    share = int8_sums().plain
    words_of_cpu = "exact" if share == 1 else f"saturate ({share:.2f} of the exact sum)"
    assert f"\nint8 sums on this CPU: {words_of_cpu}\n" in out


def test_where_none_holds_nothing_is_written_and_the_table_shows_how_near_each_came(
    encoder: Path, small: list[Path], capfd: Capture
) -> None:
    """The ranges are those of grey images."""
    grey = Path("grey")
    grey.mkdir()
    for path in small[:20]:
        Image.open(path).point(lambda _: 128).save(grey / path.name)
    before = left_in()
    words = ["--precision", "int8-qdq", "--parity-images", small[0].parent, "--calibration-images", grey, "-o", OUT]
    assert robustcheck("export", "onnx", encoder, *words) == 3
    out, err = capfd.readouterr()
    rows = [line.split() for line in out.splitlines()[1 : 1 + len(FORMS)]]
    assert [row[0] for row in rows] == [form.name for form in FORMS]
    assert "number of forms that hold is 0 of 6" in err
    assert "--precision fp16" in err
    assert left_in() == before
    ranges: Fields = {"photos": small, "calibration": sorted(grey.iterdir())}
    caught = raised(forms.NoFormError, "number of forms that hold is 0", int8, encoder, small, **ranges)
    for row, tried in zip(rows, caught.forms, strict=True):
        assert not tried.holds
        assert row[3] == f"{tried.plain.cosine:.3f}"


@pytest.mark.parametrize("operator", ["Softmax", "Resize"])
def test_where_fp16_is_known_to_fail_or_to_be_worse_the_hint_is_another(tmp_path: Path, operator: str) -> None:
    model = onnx_models.build([(operator, ["image"], ["representation"], {})], ["representation"], {})
    path = onnx_models.save(model, tmp_path / "m.onnx")
    caught = raised(forms.NoFormError, "number of forms", files._refuse_all, [Tried(FORMS[0])], path, "m")
    assert "--precision int8-dynamic" in caught.hint


def test_a_wrong_form_is_refused_before_any_work(encoder: Path, small: list[Path]) -> None:
    with refused(2, "--form is 7-bits; it must be one of uint8-weights, 7-bit-weights, int8-weights, 16-bit"):
        int8(encoder, small, form="7-bits")
    with refused(2, "--form is int8-weights; only int8-qdq has forms, and the precision is fp16"):
        int8(encoder, small, form="int8-weights", precision="fp16", calibration=())
