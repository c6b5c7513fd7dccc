"""Forms of an int8 file: what is measured of them, which is chosen, and what the user sees of that."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from PIL import Image

from robustcheck_onnx.checker.core.evidence import OUTLIER_SD
from robustcheck_onnx.checker.core.model.file import read_onnx
from robustcheck_onnx.checker.core.model.int8 import saturating_pairs
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.devices import int8_sums
from robustcheck_onnx.checker.core.statistics import definitions, intervals
from robustcheck_onnx.checker.core.statistics import state as sums
from robustcheck_onnx.checker.questions.compare.features import MIN_CORRELATION, follow_features
from robustcheck_onnx.checker.questions.compare.index import compare_vectors
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions
from robustcheck_onnx.checker.questions.compare.judge import TOLERANCE
from robustcheck_onnx.checker.questions.compare.neighbours import KS
from robustcheck_onnx.checker.questions.compare.pairs import Pair, Side, update
from robustcheck_onnx.exporters import forms
from robustcheck_onnx.exporters.delivery import ExportRecord
from robustcheck_onnx.exporters.forms import FORMS, Kept, Tried
from robustcheck_onnx.exporters.quantisation import _copied, _refuse_all, quantise
from support import Capture, Fields, Patch, onnx_models, raised, robustcheck
from support.onnx_models import Array
from support.torch_models import contract_of, exported, left_in, pixels, refused, represent

OUT = Path("int8.onnx")
GOOD = Kept(0.95, 0.9, 1)


def test_the_limits_are_those_of_a_comparison() -> None:
    options = IndexOptions()
    assert (options.min_cosine, options.min_recall, KS[-1]) == (forms.MIN_COSINE, forms.MIN_RECALL, forms.NEIGHBOURS)
    assert (forms.OUTLIER_SD, forms.PERSISTENT_SHARE) == (OUTLIER_SD, definitions.PERSISTENT_SHARE)
    assert (forms.KEPT_SHARE, forms.MIN_CORRELATION) == (1 - TOLERANCE, MIN_CORRELATION)
    assert forms.CONFIDENCE == intervals.CONFIDENCE


def planted() -> Array:
    """48 vectors of 300 features, of which two stand out, one on either side."""
    random = default_rng(0)
    rows = random.standard_normal((48, 300))
    rows[:, 7] = 9 + 2 * random.standard_normal(48)
    rows[:, 20] = -9 - 2 * random.standard_normal(48)
    return rows.astype(np.float32)


def compared(reference: Array, rows: Array) -> Kept:
    """What `compare` finds."""
    images = [(f"{i}.jpg", str(i)) for i in range(len(rows))]
    numbers = compare_vectors(rows, reference, images, IndexOptions(), None, None).numbers
    pair = Pair(Side(sums.State(rows.shape[1])), Side(sums.State(rows.shape[1])))
    update(pair, rows, reference, np.arange(len(rows)))
    fates = follow_features(pair.candidate, pair.reference, sums.statistics(pair.reference.state, 0.05), TOLERANCE)
    cosine, recall = (numbers[name].estimate or 0.0 for name in ("cosine, worst 5 %", "recall@10 among the photos"))
    return Kept(cosine, recall, sum(fate.persistent and fate.fate == "kept" for fate in fates))


def test_what_is_kept_is_what_a_comparison_finds() -> None:
    truth, other = planted(), default_rng(1).standard_normal((48, 300)).astype(np.float32)
    assert forms.outlier_features(truth) == {7: 1.0, 20: -1.0}
    lost, apart, turned = (truth.copy() for _ in range(3))
    lost[:, 7] = other[:, 7]
    apart[:, 20] = np.roll(truth[:, 20], 1)
    turned[:, 7] *= -1
    close, far = truth + 0.3 * other, truth + 3 * other
    for rows, features in ((truth, 2), (close, 2), (lost, 1), (apart, 1), (turned, 1), (far, 0), (other, 0)):
        seen = forms.kept(truth, rows)
        assert seen == pytest.approx(compared(truth, rows), abs=1e-6)
        assert seen.features == features


def test_vectors_without_a_direction_never_hold() -> None:
    for wrong in (0, np.nan, np.inf):
        rows = planted()
        rows[3:9] = wrong
        assert not Tried(FORMS[0], 1, 1, GOOD, forms.kept(planted(), rows), 2).holds


def test_a_form_holds_if_it_keeps_everything_by_both_arithmetics() -> None:
    assert Tried(FORMS[0], 5, 9, GOOD, GOOD, 1).holds
    for worse in (Kept(0.899, 0.9, 1), Kept(0.95, 0.799, 1), Kept(0.95, 0.9, 0), Kept()):
        assert not Tried(FORMS[0], 5, 9, worse, GOOD, 1).holds
        assert not Tried(FORMS[0], 5, 9, GOOD, worse, 1).holds
    assert not Tried(FORMS[0], 5, 9, GOOD, GOOD, 1, "disagrees").holds


# sizes | forms with a fault | forms that just hold | the form that is chosen
CHOICES = """\
105 105 105 100 | | | uint8-weights
106 106 50 100 | | | 16-bit-activations
105 105 105 100 | uint8-weights | | 7-bit-weights
105 105 105 100 | | uint8-weights | 7-bit-weights
105 105 105 100 | | uint8-weights 7-bit-weights 16-bit-activations | uint8-weights
105 105 105 | uint8-weights 7-bit-weights | | None"""


@pytest.mark.parametrize("row", CHOICES.splitlines())
def test_the_smallest_is_chosen_and_of_equally_small_ones_the_first_that_is_the_same_on_every_cpu(row: str) -> None:
    sizes, faults, just, expected = (cell.split() for cell in row.split("|"))
    kept = {form.name: Kept(0.97, 0.89, 1) if form.name in just else GOOD for form in FORMS}
    tried = [
        Tried(form, int(size), 9, kept[form.name], kept[form.name], 1, "x" * (form.name in faults))
        for form, size in zip(FORMS, sizes, strict=False)
    ]
    best = forms.smallest(tried)
    assert [(best and best.form.name) or "None"] == expected


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


# form | types of the three weights in the file, and of the activations
KINDS = """\
uint8-weights | uint8 uint8 uint8 uint8
7-bit-weights | int8 int8 int8 uint8
int8-weights | int8 int8 int8 uint8
16-bit-activations | uint8 uint8 uint8 uint16
float-ends | float32 uint8 float32 uint8
matmul-only | uint8 uint8 uint8 uint8"""


def test_each_form_is_what_its_name_says_and_its_sums_are_the_same_on_every_cpu_or_it_is_named(
    saturating: Path,
) -> None:
    white = saturating.with_name("white.png")
    Image.new("L", (8, 8), 255).save(white)
    for form, row in zip(FORMS, KINDS.splitlines(), strict=True):
        path = _copied(saturating, form.name)
        quantise(path, "int8-qdq", [white], lambda _: WHITE, name="m", form=form)
        read = read_onnx(path)
        stored = {
            each.name: onnx.helper.tensor_dtype_to_np_dtype(each.data_type).name
            for each in read.proto.graph.initializer
        }
        weights = [stored.get(f"{name}_quantized") or stored[name] for name in ("same", "many", "few")]
        assert row == f"{form.name} | {' '.join(weights)} {stored['a_zero_point']}"
        assert bool(saturating_pairs(read.proto, read.weights)) is not form.is_same_everywhere
        share = 1.0 if form.is_same_everywhere else int8_sums().plain
        np.testing.assert_allclose(represent(path, WHITE[None])[0], [192 * share, 96] * 8, atol=4 * 192 / 255)


def int8(encoder: Path, photos: list[Path], **options: Any) -> ExportRecord:
    """Export with 32 photos to measure forms on, and 20 for the ranges."""
    options = {"precision": "int8-qdq", "photos": photos[:32], "calibration": photos} | options
    return exported("onnx", str(encoder), OUT, **options)


def test_the_contract_has_the_form_and_what_it_keeps_by_both_arithmetics(encoder: Path, photos: list[Path]) -> None:
    record = int8(encoder, photos)
    assert [each.form for each in record.forms] == list(FORMS)
    chosen = forms.smallest(record.forms)
    assert chosen is not None
    assert (chosen.form.name, record.calibrated_on) == (record.form, 20)
    rows, truth = (
        np.concatenate([represent(path, image[None]) for image in pixels(photos[:32])]) for path in (OUT, encoder)
    )
    recorded = contract_of(OUT)["parity"]["form"]
    keeps = compared(truth, rows)
    assert keeps.cosine < 1
    for arithmetic in ("plain", "exact"):
        assert recorded.pop(arithmetic) == pytest.approx(keeps._asdict(), abs=1e-6)
    assert recorded == {"name": record.form, "photos": 32, "outlier_features": 0}
    read: Any = open_model(OUT)
    assert read.contract.parity.form.name == record.form
    assert left_in() == ["fp32.onnx", "int8.onnx"]


def typed(encoder: Path, photos: Path, calibration: Path, *words: str) -> int:
    images = ["--parity-images", photos, "--calibration-images", calibration]
    return robustcheck("export", "onnx", encoder, "--precision", "int8-qdq", *images, *words, "-o", OUT)


def test_one_form_is_written_as_asked_if_it_is_faithful(encoder: Path, photos: list[Path], capfd: Capture) -> None:
    assert typed(encoder, photos[0].parent, photos[0].parent, "--form", "int8-weights") == 0
    out = capfd.readouterr().out
    assert "MB, int8-qdq int8-weights, outputs representation" in out
    assert [line.split()[0] for line in out.splitlines()[:2]] == ["form", "int8-weights"]
    assert contract_of(OUT)["parity"]["form"]["name"] == "int8-weights"
    share = int8_sums().plain
    words_of_cpu = "exact" if share == 1 else f"saturate ({share:.2f} of the exact sum)"
    assert f"\nint8 sums on this CPU: {words_of_cpu}\n" in out


def test_where_none_holds_nothing_is_written_and_the_table_shows_how_near_each_came(
    encoder: Path, photos: list[Path], capfd: Capture, monkeypatch: Patch
) -> None:
    """The ranges are those of grey images."""
    monkeypatch.setenv("COLUMNS", "120")  # a narrow table has no speed
    grey = Path("grey")
    grey.mkdir()
    for path in photos[:20]:
        Image.open(path).point(lambda _: 128).save(grey / path.name)
    before = left_in()
    assert typed(encoder, photos[0].parent, grey) == 3
    out, err = capfd.readouterr()
    rows = [line.split() for line in out.splitlines()[1 : 1 + len(FORMS)]]
    assert "number of forms that hold is 0 of 6" in err
    assert "--precision fp16" in err
    assert left_in() == before
    call: Fields = {"precision": "int8-qdq", "photos": photos, "calibration": sorted(grey.iterdir())}
    caught = raised(forms.NoFormError, "number of forms that hold is 0", exported, "onnx", str(encoder), OUT, **call)
    assert [(row[0], row[3]) for row in rows] == [(t.form.name, f"{t.plain.cosine:.3f}") for t in caught.forms]


@pytest.mark.parametrize("operator", ["Softmax", "Resize"])
def test_where_fp16_is_known_to_fail_or_to_be_worse_the_hint_is_another(tmp_path: Path, operator: str) -> None:
    model = onnx_models.build([(operator, ["image"], ["representation"], {})], ["representation"], {})
    path = onnx_models.save(model, tmp_path / "m.onnx")
    caught = raised(forms.NoFormError, "number of forms", _refuse_all, [Tried(FORMS[0])], path, "m")
    assert "--precision int8-dynamic" in caught.hint


def test_a_wrong_form_is_refused_before_any_work(encoder: Path, photos: list[Path]) -> None:
    with refused(2, "--form is 7-bits; it must be one of uint8-weights, 7-bit-weights, int8-weights, 16-bit"):
        int8(encoder, photos, form="7-bits")
    with refused(2, "--form is int8-weights; only int8-qdq has forms, and the precision is fp16"):
        int8(encoder, photos, form="int8-weights", precision="fp16", calibration=())
