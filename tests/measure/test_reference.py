"""Reference runs: whether the machine or the file gives the answer, of a check and of an index."""

import platform
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_array_equal
from onnx import ModelProto
from onnx.helper import make_node
from onnx.numpy_helper import from_array
from onnx.parser import parse_model
from onnxruntime import InferenceSession, SessionOptions
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from PIL import Image

from robustcheck_onnx import check
from robustcheck_onnx.checker.core.evidence import CONTENT_IMAGES, Execution, Int8Sums, ReferenceRun
from robustcheck_onnx.checker.core.measure import reference
from robustcheck_onnx.checker.core.measure.job import Job
from robustcheck_onnx.checker.core.measure.opening import open_job
from robustcheck_onnx.checker.core.measure.probe import probe
from robustcheck_onnx.checker.core.measure.sums import FirstImages
from robustcheck_onnx.checker.core.model.file import read_onnx
from robustcheck_onnx.checker.core.model.int8 import (
    holds_int8_weights,
    holds_nested_int8_weights,
    saturating_pairs,
    with_unsigned_weights,
)
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.devices import EXACT_SUMS, int8_sums
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.core.statistics.definitions import effective_rank, unit_rows
from robustcheck_onnx.checker.core.verdict.notes import execution_notes, reference_notes
from robustcheck_onnx.checker.core.verdict.rule import MIN_EFFECTIVE_RANK, judge
from robustcheck_onnx.checker.errors import EnvironmentFaultError
from robustcheck_onnx.checker.outside.image_sets.open import of_job
from robustcheck_onnx.checker.questions.compare import compare, machine
from robustcheck_onnx.checker.questions.compare.index import on_another_machine
from robustcheck_onnx.checker.questions.compare.index_report import IndexOptions, IndexReport, Number
from robustcheck_onnx.thresholds.profile import load
from support import PHOTOS, ROOT, Capture, Patch, but, read_json, robustcheck
from support.onnx_models import build, graph, save, with_int8_branches
from support.reports import interval, passing

PROFILE = load()
EVIDENCE = but(passing().evidence, statistics__statistic_version=PROFILE.statistic_version)
SATURATING, EXACT = Int8Sums(plain=0.5, exact=1), Int8Sums(plain=1, exact=1)
WIDTH = 64
WEIGHTS: dict[str, Any] = {
    "scale": np.array(1 / 255, np.float32),
    "zero": np.array(0, np.uint8),
    "fine": np.full(WIDTH, 1 / 127, np.float32),
    "signed": np.zeros(WIDTH, np.int8),
    "one": np.array(1 / 127, np.float32),
    "null": np.array(0, np.int8),
    "w8": default_rng(0).integers(-127, 128, (3 * WIDTH, WIDTH)).astype(np.int8),
    "to": np.array([-1, 3 * WIDTH], np.int64),
}
QUANTISED = "q = QuantizeLinear(image, scale, zero); f = Reshape(q, to)"
FORMS = {
    "QDQ, one scale per channel": f"{QUANTISED}; a = DequantizeLinear(f, scale, zero); "
    "w = DequantizeLinear(w8, fine, signed, axis=1); y = MatMul(a, w)",
    "QDQ without a zero point": f"{QUANTISED}; a = DequantizeLinear(f, scale, zero); "
    "w = DequantizeLinear(w8, one); y = MatMul(a, w)",
    "QLinearMatMul": f"{QUANTISED}; p = QLinearMatMul(f, scale, zero, w8, one, null, one, zero); "
    "y = DequantizeLinear(p, one, zero)",
    "MatMulInteger": f"{QUANTISED}; p = MatMulInteger(f, w8, zero, null); y = Cast(p, to=FLOAT)",
    "MatMulInteger without zero points": f"{QUANTISED}; p = MatMulInteger(f, w8); y = Cast(p, to=FLOAT)",
}


def written(text: str, **others: Any) -> Path:
    nodes = graph(text)
    used = {name for node in nodes for name in node[1]}
    arrays = {name: values for name, values in (WEIGHTS | others).items() if name in used}
    return save(build(nodes, [nodes[-1][2][0]], arrays), "m.onnx")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", FORMS)
def test_the_same_weights_as_uint8_give_the_exact_sums(form: str) -> None:
    file = read_onnx(written(FORMS[form]))
    unsigned = with_unsigned_weights(ModelProto.FromString(Path("m.onnx").read_bytes()), file.weights)
    kinds = {tensor.name: tensor.data_type for tensor in unsigned.graph.initializer}
    assert "w8" not in kinds
    assert kinds["w8_unsigned"] == 2  # uint8
    assert saturating_pairs(file.proto, file.weights) is not None
    assert saturating_pairs(unsigned, file.weights) is None
    assert holds_int8_weights(file.proto)
    assert not holds_int8_weights(unsigned)
    pixels = default_rng(2).random((5, 3, 8, 8)).astype(np.float32)
    feed = {unsigned.graph.input[0].name: pixels}
    (found,) = InferenceSession(unsigned.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
    levels = np.round(pixels * np.float32(255)).astype(np.int64).reshape(5, -1)
    sums = levels @ WEIGHTS["w8"].astype(np.int64)
    if form.startswith("MatMulInteger"):
        assert_array_equal(found, sums)
    elif form == "QLinearMatMul":
        # scale of the product / (scale of the pixels · scale of the weights): 1/127 / (1/255 · 1/127)
        assert np.abs(found * 127 - np.clip(np.round(sums / 255), 0, 255)).max() < 1.001
    else:
        np.testing.assert_allclose(found, sums / 255 / 127, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("here")
def test_weights_behind_16_bit_activations_are_written_as_uint8_and_never_counted_as_saturating() -> None:
    wide = {"zero16": np.array(0, np.uint16), "scale16": np.array(1 / 65535, np.float32)}
    text = "q = QuantizeLinear(image, scale16, zero16); f = Reshape(q, to); a = DequantizeLinear(f, scale16, zero16); "
    text += "w = DequantizeLinear(w8, one, null); y = MatMul(a, w)"
    file = read_onnx(written(text, **wide))
    assert saturating_pairs(file.proto, file.weights) is None
    unsigned = with_unsigned_weights(ModelProto.FromString(Path("m.onnx").read_bytes()), file.weights)
    assert not holds_int8_weights(unsigned)
    assert {tensor.name: tensor.data_type for tensor in unsigned.graph.initializer}["w8_unsigned"] == 2  # uint8


QAT = f"{QUANTISED}; a = DequantizeLinear(f, scale, zero); "
LEFT_OVER = {
    "a weight that two layers read": f"{QUANTISED}; p = MatMulInteger(f, w8, zero, null); r = MatMulInteger(f, w8); "
    "sum = Add(p, r); y = Cast(sum, to=FLOAT)",
    "int8 activations": f"{QUANTISED.replace(', zero', ', null')}; "
    "p = QLinearMatMul(f, scale, null, w8, one, null, one, null); y = DequantizeLinear(p, one, null)",
    "a weight through Transpose": f"{QAT} t = DequantizeLinear(w8t, one, null); w = Transpose(t, [1,0]); "
    "y = MatMul(a, w)",
    "a weight through Identity": f"{QAT} i = Identity(w8); w = DequantizeLinear(i, one, null); y = MatMul(a, w)",
    "activations through Squeeze": f"{QUANTISED}; u = DequantizeLinear(q, scale, zero); v = Reshape(u, to); "
    "w = DequantizeLinear(w8, one, null); y = MatMul(v, w)",
    "a float weight that the graph quantises by a node's zero point": f"{QAT} z = Identity(null); "
    "c = QuantizeLinear(wf, one, z); w = DequantizeLinear(c, one, z); y = MatMul(a, w)",
    "a float weight that the graph casts": f"{QUANTISED}; c = Cast(wi, to=INT8); p = MatMulInteger(f, c); "
    "y = Cast(p, to=FLOAT)",
    "a float weight that the graph quantises": f"{QAT} c = QuantizeLinear(wf, one, null); "
    "w = DequantizeLinear(c, one, null); y = MatMul(a, w)",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", LEFT_OVER)
def test_an_int8_weight_that_stays_is_seen_so_that_no_sum_is_called_exact_that_may_saturate(form: str) -> None:
    weights = {"w8t": WEIGHTS["w8"].T.copy(), "wf": (WEIGHTS["w8"] / 127).astype(np.float32)}
    weights["wi"] = WEIGHTS["w8"].astype(np.float32)
    file = read_onnx(written(LEFT_OVER[form], **weights))
    unsigned = with_unsigned_weights(ModelProto.FromString(Path("m.onnx").read_bytes()), file.weights)
    assert holds_int8_weights(unsigned)


@pytest.mark.parametrize("place", ["inside", "outside", "outside, transposed", "quantised inside"])
def test_exact_sums_of_int8_weights_that_a_graph_inside_a_node_reads_are_refused(place: str) -> None:
    model = with_int8_branches(WEIGHTS["w8"], is_outside=place != "inside")
    graph = model.graph
    branches = [attribute.g for attribute in graph.node[1].attribute]
    weights = [tensor for tensor in graph.initializer if tensor.name != "yes"]
    if place == "outside, transposed":
        for weight in weights:
            outer = make_node("Transpose", [f"{weight.name}_before"], [weight.name])
            weight.name = f"{weight.name}_before"
            graph.node.insert(0, outer)
    elif place == "quantised inside":
        for weight, branch in zip(weights, branches, strict=True):
            read = [f"{weight.name}_before", "one", "null"]
            branch.node.insert(0, make_node("QuantizeLinear", read, [weight.name]))
            weight.CopyFrom(from_array((WEIGHTS["w8"] / 127).astype(np.float32), read[0]))
        graph.initializer.extend(from_array(WEIGHTS[name], name) for name in ("one", "null"))
    assert holds_nested_int8_weights(model)
    assert holds_int8_weights(model)


@pytest.mark.parametrize("first", [0, 1])
def test_the_type_of_a_zero_point_holds_in_its_own_branch_alone(first: int) -> None:
    """One branch has a uint8 initializer z. In the other a node makes an int8 z."""
    quantised = "w = QuantizeLinear(wf, s, z) d = DequantizeLinear(w, s, z) {name} = MatMul(image, d)"
    uint8 = f"t () => (float[n, 8] ty) <uint8 z = {{0}}> {{ {quantised.format(name='ty')} }}"
    int8 = f"e () => (float[n, 8] ey) {{ z = Constant<value = int8 {{0}}>() {quantised.format(name='ey')} }}"
    then, other = ((uint8, int8), (int8, uint8))[first]
    model = parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n, 8] image) => (float[n, 8] y) '
        "<bool yes = {1}, float s = {0.5}, float[1, 1] wf = {1}> "
        f"{{ y = If (yes) <then_branch = {then}, else_branch = {other}> }}"
    )
    assert holds_nested_int8_weights(model)


def test_floats_that_a_graph_inside_a_node_reads_are_no_int8_weights() -> None:
    model = with_int8_branches(WEIGHTS["w8"].astype(np.uint8), is_outside=True)
    assert not holds_nested_int8_weights(model)
    assert not holds_int8_weights(model)


@pytest.mark.long
def test_a_quantised_transformer_that_onnx_runtime_refuses_in_its_own_exact_mode_is_checked_by_exact_sums(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    """On a CPU whose int8 sums are exact, both arithmetics give the same numbers."""
    monkeypatch.syspath_prepend(ROOT / "studies")
    precisions = import_module("planted.precisions")
    (form,) = (one for one in precisions.forms() if one.name == "static QDQ, per channel, int8 activations")
    form.make(tmp_path)
    (tmp_path / "model.robustcheck.json").write_text(form.preprocessing.model_dump_json())
    strict = SessionOptions()
    strict.add_session_config_entry(EXACT_SUMS, "1")
    with pytest.raises(Fail, match="Attempt to replace the existing tensor"):
        InferenceSession(tmp_path / "model.onnx", strict, providers=["CPUExecutionProvider"])
    exact: Any = check(tmp_path / "model.onnx", arithmetic="exact").evidence.statistics
    assert exact.strength.estimate > 20
    if int8_sums().plain == 1:
        assert exact == check(tmp_path / "model.onnx", arithmetic="machine").evidence.statistics


def executed(**changes: Any) -> Execution:
    return but(EVIDENCE.execution, **changes)


# int8 sums | providers | the arithmetic that was asked for | that of the reference
KINDS = """\
| CPU | | None
saturating | CPU | | exact int8 sums
exact | CPU | | no graph optimisation
saturating | CUDA CPU | | exact int8 sums
| CUDA CPU | | no graph optimisation
saturating | CPU | machine | exact int8 sums
saturating | CPU | exact | None"""


def test_a_reference_is_run_where_the_machine_can_differ_from_the_file() -> None:
    for row in KINDS.splitlines():
        sums, names, arithmetic, expected = (cell.strip() for cell in row.split("|"))
        providers = tuple(f"{name}ExecutionProvider" for name in names.split())
        int8 = {"saturating": SATURATING, "exact": EXACT}.get(sums)
        execution = executed(int8_sums=int8, providers=providers, arithmetic=arithmetic or None)
        assert str(reference.kind_of(execution)) == expected


@pytest.mark.usefixtures("here")
def test_a_reference_run_gives_the_distance_to_the_measured_vectors() -> None:
    """The measured vectors are moved by hand, as saturation would move them."""
    written(FORMS["QDQ, one scale per channel"])
    opened = open_job(Job(Path("m.onnx"), options()), of_job)
    (runner,) = opened.runners
    facts = probe(opened)
    assert facts.executions[0].int8_sums == int8_sums()
    pixels = default_rng(3).integers(0, 256, (6, 8, 8, 3), np.uint8)
    (rows,) = runner.represent(pixels)
    moved = rows.copy()
    moved[:, 0] += 5 * np.abs(rows).max()
    for measured, is_same in ((rows, True), (moved, False)):
        first = FirstImages(limit=4)
        first.add(list(pixels), [measured])
        found: Any = reference.reference_runs(opened, first, n_tried=4)[0]
        exact = found.rows / np.linalg.norm(found.rows, axis=1, keepdims=True)
        own = measured[:4] / np.linalg.norm(measured[:4], axis=1, keepdims=True)
        cosines = (exact * own).sum(axis=1)
        both = found.run.cosine, found.run.worst_cosine
        assert found.run.n_images == 4
        assert both == pytest.approx((np.median(cosines), cosines.min()), abs=1e-6)
        assert (found.run.difference < 1e-3, found.run.difference > 1) == (is_same, not is_same)
        assert (abs(found.run.shifts["strength"]) < 1e-2) is is_same
        (execution,) = reference.with_references(facts, [found]).executions
        assert execution.reference == found.run


@pytest.mark.usefixtures("here")
def test_content_that_the_machines_noise_makes_is_measured_on_as_many_images_as_content(monkeypatch: Patch) -> None:
    """The file's representations have 12 directions. The machine's are moved by hand: with its noise they have more."""
    monkeypatch.setattr(reference, "kind_of", lambda _: "exact int8 sums")  # as on a CPU whose sums saturate
    few = default_rng(4).integers(-9, 10, (12, WIDTH)).astype(np.int8)
    narrow = {"w8": np.repeat(few, WIDTH * 3 // 12, axis=0)}
    written(FORMS["QDQ, one scale per channel"], **narrow)
    opened = open_job(Job(Path("m.onnx"), options()), of_job)
    assert reference.first_images(opened).limit == CONTENT_IMAGES
    pixels = default_rng(3).integers(0, 256, (CONTENT_IMAGES, 8, 8, 3), np.uint8)
    (rows,) = opened.runners[0].represent(pixels)
    noise = default_rng(5).standard_normal(rows.shape) * rows.std()
    for of_machine, n_images in ((rows, 8), (rows + 0.8 * noise, CONTENT_IMAGES)):
        first = FirstImages(limit=CONTENT_IMAGES)
        first.add(list(pixels), [of_machine])
        found: Any = reference.reference_runs(opened, first)[0]
        assert (found.run.n_images, len(found.rows), found.run.failed) == (n_images, 8, "")
        ranks = effective_rank(unit_rows(of_machine)), effective_rank(unit_rows(rows))
        assert found.run.shifts["nonfinite_share"] == 0
        if n_images == CONTENT_IMAGES:
            assert ranks[1] < MIN_EFFECTIVE_RANK < ranks[0]
            assert found.run.shifts["effective_rank"] == pytest.approx(ranks[1] - ranks[0], rel=1e-3)


@pytest.mark.usefixtures("here")
def test_a_reference_run_that_fails_on_more_images_keeps_what_it_has_and_is_a_reason(monkeypatch: Patch) -> None:
    monkeypatch.setattr(reference, "kind_of", lambda _: "exact int8 sums")
    written(FORMS["QDQ, one scale per channel"])
    opened = open_job(Job(Path("m.onnx"), options()), of_job)
    pixels = default_rng(3).integers(0, 256, (12, 8, 8, 3), np.uint8)
    (rows,) = opened.runners[0].represent(pixels)
    first = FirstImages(limit=12)
    first.add(list(pixels), [rows + 0.5 * rows.std() * default_rng(5).standard_normal(rows.shape)])
    whole = Runner.represent_in_batches

    def short_of_memory(run: Runner, images: Any) -> Any:
        if not np.array_equal(images[0], pixels[0]):  # not the first images
            raise EnvironmentFaultError("memory ran out")
        return whole(run, images)

    monkeypatch.setattr(Runner, "represent_in_batches", short_of_memory)
    found: Any = reference.reference_runs(opened, first)[0]
    assert (found.run.n_images, len(found.rows), found.run.failed) == (8, 8, "memory ran out")
    execution = executed(reference=found.run, int8_sums=EXACT, precision="int8")
    (reason,) = judge(but(EVIDENCE, execution=execution), PROFILE).reasons
    assert reason.id == "runtime_differs"
    assert " on more than 8 images, because it failed: memory ran out" in reason.seen
    (note,) = reference_notes(execution)
    assert note == "Only 8 images could be run once more by the CPU with exact int8 sums: memory ran out"


def test_a_reference_run_that_is_not_finite_is_a_reason() -> None:
    rows = default_rng(6).standard_normal((8, WIDTH)).astype(np.float32)
    broken = rows.copy()
    broken[3, 5] = np.nan
    for theirs, share in ((broken, 1 / 8), (np.full_like(rows, np.inf), 1), (rows, 0)):
        found = reference.shifts(theirs, rows)
        assert found["nonfinite_share"] == share
        execution = executed(reference=but(run_of(1, None), shifts=found), int8_sums=EXACT, precision="int8")
        reasons = judge(but(EVIDENCE, execution=execution), PROFILE).reasons
        assert [reason.id for reason in reasons] == ["runtime_differs"] * (share > 0)
        assert all(" gives more representations that are not finite than " in reason.seen for reason in reasons)


def test_the_machine_of_a_gpu_run_is_the_gpu_with_the_sums_of_its_cpu() -> None:
    on_gpu = ("CUDAExecutionProvider", "CPUExecutionProvider")
    machines = {
        executed(providers=on_gpu, device="NVIDIA H100", int8_sums=SATURATING, precision="int8").machine:
        "CUDA on NVIDIA H100 (int8 sums on its CPU saturate at 50.0 % of the exact sum)",
        executed(providers=on_gpu, device="NVIDIA H100").machine: "CUDA on NVIDIA H100",
        executed(device="a CPU", int8_sums=SATURATING, precision="int8").machine:
        "this CPU (a CPU, whose int8 sums saturate at 50.0 % of the exact sum)",
    }  # fmt: skip
    assert [said for said, expected in machines.items() if said != expected] == []


def options(**changes: Any) -> Options:
    preprocessing = but(CLIP, size=(8, 8), resize_size=(8, 8), **changes)
    Path("p.json").write_text(preprocessing.model_dump_json(), encoding="utf-8")
    return Options(images="photos", preprocess="p.json", device="cpu")


def run_of(cosine: float, floor: float | None) -> ReferenceRun:
    return ReferenceRun(by="exact int8 sums", n_images=8, cosine=cosine, worst_cosine=cosine, difference=1, floor=floor)


# median 1 − cosine of machine ~ exact and of exact ~ no optimisation: docs/dev/decisions/reference-run.md
DISTANCES = """\
0.046 0.0006 yes
0.0135 0.0018 yes
0.0026 0.0015 no
0.037 0.031 no
0.0030 0.0029 no"""


def test_saturation_exceeds_rounding_and_a_transformer_does_not() -> None:
    for row in DISTANCES.splitlines():
        distance, floor, expected = row.split()
        run = run_of(1 - float(distance), 1 - float(floor))
        assert run.exceeds_rounding is (expected == "yes")
        notes = reference_notes(executed(reference=run, int8_sums=SATURATING, precision="int8"))
        assert len(notes) == (expected == "yes")
        assert all("this CPU" in note and "exact int8 sums" in note for note in notes)


def test_without_a_floor_nothing_is_said_of_rounding_and_a_failed_run_is_noted() -> None:
    assert not run_of(0.5, None).exceeds_rounding
    failed = ReferenceRun(by="exact int8 sums", failed="ONNX Runtime refuses the model")
    assert reference_notes(executed(reference=failed)) == [
        "No image could be run once more by the CPU with exact int8 sums: ONNX Runtime refuses the model"
    ]


@pytest.mark.parametrize(
    ("sums", "asked", "warns"), [(SATURATING, None, True), (SATURATING, "machine", False), (EXACT, None, False)]
)
def test_a_reference_run_that_failed_where_sums_saturate_is_a_reason(
    sums: Int8Sums, asked: str | None, warns: bool
) -> None:
    failed = ReferenceRun(by="exact int8 sums", failed="ONNX Runtime refuses the model")
    execution = executed(reference=failed, int8_sums=sums, precision="int8", arithmetic=asked)
    verdict = judge(but(EVIDENCE, execution=execution), PROFILE)
    assert ("runtime_differs" in [reason.id for reason in verdict.reasons]) == warns


# strength above its threshold | shift by reference arithmetic | the arithmetic that was asked for | reasons
VERDICTS = """\
5 | -1 | |
5 | -10 | | runtime_differs
-5 | 10 | | runtime_differs too_weak
-5 | 1 | | too_weak
5 | -10 | machine |
-5 | 10 | machine | too_weak"""


def test_a_verdict_that_reference_arithmetic_could_move_is_warn_and_says_so() -> None:
    for row in VERDICTS.splitlines():
        above, shift, arithmetic, expected = (cell.strip() for cell in row.split("|"))
        strength = PROFILE.minimum_of("strength") + float(above)
        run = but(run_of(0.9, 0.99), shifts={"strength": float(shift)})
        execution = executed(reference=run, int8_sums=SATURATING, precision="int8", arithmetic=arithmetic or None)
        evidence = but(EVIDENCE, statistics__strength=interval(strength, strength - 0.1, strength + 0.1))
        reasons = judge(but(evidence, execution=execution), PROFILE).reasons
        assert [reason.id for reason in reasons] == expected.split()
        if expected == "runtime_differs":
            for said in (execution.device, "sums saturate at 50.0 %", "numbers give PASS as", "WARN (too_weak)"):
                assert said in reasons[0].seen
            assert "--arithmetic exact" in reasons[0].next_step


def test_float16_is_computed_in_float32_on_the_cpu_and_a_note_says_so() -> None:
    """The sum is 131072, and the largest float16 is 65504."""
    graph_text = "(float16[1, 32] x) => (float[1, 1] y) { p = MatMul(x, w) q = Mul(p, s) y = Cast<to = 1>(q) }"
    model = parse_model(f'<ir_version: 8, opset_import: ["" : 13]> sums {graph_text}')
    model.graph.initializer.append(from_array(np.full((32, 1), 64, np.float16), "w"))
    model.graph.initializer.append(from_array(np.array(1 / 128, np.float16), "s"))
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.full((1, 32), 64, np.float16)})[0] == 131072 / 128
    on_cpu = ("CPUExecutionProvider",)
    (note,) = execution_notes(executed(precision="fp16", providers=on_cpu))
    assert "computes the float16 layers of this file in float32" in note
    assert execution_notes(executed(precision="fp16", providers=("CUDAExecutionProvider", *on_cpu))) == []


def test_the_distances_of_two_files_are_compared_by_both_arithmetics() -> None:
    a = np.array([[1.0, 0.0], [0.0, 1.0]])
    tilted = np.array([[1.0, 1.0], [1.0, 1.0]])
    loss = machine.loss_of((tilted, a), (a, None), "this CPU", "exact int8 sums")
    assert loss is not None
    assert (loss.n_images, loss.is_of_machine) == (2, True)
    assert (loss.here, loss.there) == pytest.approx((1 - np.sqrt(0.5), 0))
    nan = np.full((2, 2), np.nan)
    for measured, exact in (((a, a), (None, None)), ((a, a[:, :1]), (a, None)), ((nan, a), (a, None))):
        assert machine.loss_of(measured, exact, "", "") is None


def index_report(verdict: str, low: float) -> IndexReport:
    numbers = {"cosine, worst 5 %": Number(estimate=low, low=low, high=low, needs=0.9)}
    report = IndexReport(options=IndexOptions(), n_images=100, numbers=numbers)
    return report if verdict == "compatible" else report.because("cosine", "re-embed", "the vectors differ")


# index verdict | lowest cosine | 1 − cosine by the machine, and by the reference | the verdict that remains
INDEXES = """\
re-embed 0.85 0.05 0.005 undecided
re-embed 0.85 0.05 0.04 re-embed
compatible 0.95 0.02 0.01 compatible
compatible 0.95 0.02 0.05 undecided"""


@pytest.mark.parametrize("row", INDEXES.splitlines())
def test_an_index_verdict_that_is_about_the_machine_is_undecided_unless_the_index_is_another_one(row: str) -> None:
    """1 − 0.05 · 2.5 is below 0.9."""
    verdict, low, here, there, expected = row.split()
    loss = machine.MachineLoss(
        n_images=16, machine="this CPU", by="exact int8 sums", here=float(here), there=float(there)
    )
    measured = index_report(verdict, float(low))
    report = on_another_machine(measured, loss)
    assert report.verdict == expected
    assert ("runtime_differs" in [reason.id for reason in report.reasons[:1]]) is (expected == "undecided")
    assert ("machine", loss.text) in list(report.rows())
    other = measured.because("other_index", "undecided", "other vectors")
    assert on_another_machine(other, loss).reasons == other.reasons


@pytest.mark.usefixtures("here")
def test_the_arithmetic_that_was_asked_for_leads_the_report(capsys: Capture) -> None:
    written(FORMS["QDQ, one scale per channel"])
    options()
    arguments = ["m.onnx", "--images", "photos", "--preprocess", "p.json", "--device", "cpu"]
    for words, said in (
        ([], None),
        (["--arithmetic", "exact"], "the verdict is about exact int8 sums (--arithmetic exact)"),
        (["--arithmetic", "machine"], "the verdict is about this machine's arithmetic alone (--arithmetic machine)"),
    ):
        assert robustcheck(*arguments, *words, "-o", "json=r.json", "-o", "terminal") == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert ("--arithmetic" in shown.partition("m.onnx")[0]) is (said is not None)
        assert said is None or said in shown
        execution = read_json(Path("r.json"))["evidence"]["execution"]
        assert execution["arithmetic"] == (words[-1] if words else None)
        assert (execution["reference"] is None) is (words[-1:] == ["exact"])


@pytest.mark.usefixtures("here")
def test_exact_sums_are_computed_by_the_cpu_alone(capsys: Capture) -> None:
    written(FORMS["MatMulInteger"])
    options()
    arguments = ["m.onnx", "--images", "photos", "--preprocess", "p.json", "--arithmetic", "exact"]
    assert robustcheck(*arguments, "--device", "cuda") == 2
    assert "--device is cuda; the CPU alone computes exact int8 sums" in capsys.readouterr().err


EMULATED = """
import robustcheck_onnx as rc
options = {"preprocess": "p.json", "isolate": False, "device": "cpu"}
print(rc.check("m.onnx", "small", max_images=16, **options).evidence.execution.model_dump_json())
print(rc.compare("int8.onnx", "fp32.onnx", "small", **options).index.model_dump_json())
"""


@pytest.mark.long
@pytest.mark.usefixtures("here")
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="the package qemu-user emulates a CPU without VNNI")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the packages of this machine do not run on an x86 CPU")
def test_sums_saturate_on_an_emulated_cpu_without_vnni_and_an_index_that_is_compatible_elsewhere_is_undecided() -> None:
    w8 = (127 * default_rng(0).choice([-1, 1], (3 * WIDTH, WIDTH))).astype(np.int8)
    shutil.move(written(FORMS["QDQ, one scale per channel"], w8=w8), "int8.onnx")
    shutil.move(written("f = Reshape(image, to); y = MatMul(f, w)", w=(w8 / 127).astype(np.float32)), "fp32.onnx")
    written(FORMS["MatMulInteger"])
    options(mean=(0, 0, 0), std=(1, 1, 1))
    Path("small").mkdir()
    for photo in PHOTOS[:100]:
        Image.open(photo).convert("RGB").resize((32, 32)).save(f"small/{photo.stem}.png")
    exact: Any = compare("int8.onnx", "fp32.onnx", "small", preprocess="p.json", arithmetic="exact", isolate=False)
    assert exact.index.verdict == "compatible"
    command = ["qemu-x86_64", "-cpu", "Haswell", sys.executable, "-c", EMULATED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    checked, compared = done.stdout.splitlines()
    execution: Any = Execution.model_validate_json(checked)
    run = execution.reference
    # 64 products 255 · 127 in pairs that end at 32767: 32 · 32767 / (64 · 255 · 127)
    assert execution.int8_sums.plain == pytest.approx(32767 / (2 * 255 * 127))
    assert execution.int8_sums.exact == 1
    assert run.by == "exact int8 sums"
    assert run.floor == pytest.approx(1, abs=1e-6)
    assert run.worst_cosine < 0.99
    assert run.exceeds_rounding
    index: Any = IndexReport.model_validate_json(compared)
    assert (index.verdict, index.reason.id) == ("undecided", "runtime_differs")
    assert index.machine.here > 10 * index.machine.there


@pytest.mark.usefixtures("here")
def test_the_session_of_a_large_file_is_closed_before_the_reference_opens_its_own(monkeypatch: Patch) -> None:
    written(FORMS["MatMulInteger"])
    opened = open_job(Job(Path("m.onnx"), options()), of_job)
    (runner,) = opened.runners
    pixels = default_rng(3).integers(0, 256, (3, 8, 8, 3), np.uint8)
    first = FirstImages(limit=3)
    first.add(list(pixels), runner.represent(pixels))
    monkeypatch.setattr(reference, "LARGE_BYTES", 0)
    (found,) = reference.reference_runs(opened, first)
    assert found is not None
    assert found.run.cosine == pytest.approx(1, abs=1e-6)
    assert not hasattr(runner, "_session")
