"""robustcheck scan as a command: documents, errors, named blocks, foreign axes, a changed output, a GPU."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError
from robustcheck_onnx.checker.scan import run as scan
from robustcheck_onnx.checker.scan.document import ScanReport
from robustcheck_onnx.checker.scan.run import Plan, measuring_model
from support import Capture, Patch, normal, raised, robustcheck
from support.onnx_models import save, written
from support.truths import assert_close, assert_report_is_truth, scanned, small_model


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return small_model(tmp_path)


def test_the_command_reports_and_ends_with_0(small: Path, capsys: Capture) -> None:
    call = ["scan", small, "--images", small.with_suffix(".npy"), "--preprocess", "imagenet", "--device", "cpu"]
    path = small.with_name("report.txt")
    assert robustcheck(*call, "-o", "json", "-o", f"terminal={path}", "-v") == 0
    text = capsys.readouterr().out
    report = ScanReport.model_validate_json(text)
    assert report.to_json() == text
    assert [layer.tensor for layer in report.layers] == ["x", "z", "embedding"]
    assert scanned(small, batch_size=8)[0].layers == report.layers
    assert report.summary == "No layer has a persistent outlier feature on these 9 images."
    for said in (report.summary, "do not tell effective"):
        assert said in " ".join(path.read_text().split())


def test_errors(small: Path, capsys: Capture) -> None:
    embedding = ("embedding", TensorProto.FLOAT, ("batch", 192))
    flat = save(written("f = Flatten(image); embedding = Identity(f)", embedding, before=""), small.parent / "f.onnx")
    given = ["--images", small.with_suffix(".npy"), "--preprocess", "imagenet", "--device", "cpu"]
    for words, code, said in (
        ([flat], 3, "no blocks found"),
        ([small, "--block", "zz"], 2, "--block is 'zz'; no tensor of that name is computed from the image"),
        ([small, "--block", "image"], 2, "--block is 'image'; no tensor of that name"),
    ):
        assert robustcheck("scan", *words, *given) == code, said
        shown = capsys.readouterr()
        assert (said in shown.err, "--block" in shown.err, shown.out) == (True, True, "")
    proto = onnx.load(small)
    proto.graph.initializer[0].raw_data = np.full(432, np.nan, np.float32).tobytes()
    for version, said in (
        (18, "images with finite, not constant values is 0 of 9"),
        (10, "opset is 10; the nodes of a scan need 11"),
    ):
        proto.opset_import[0].version = version
        onnx.save(proto, small)
        raised(CannotAssessError, said, scanned, small)


def test_named_blocks(small: Path) -> None:
    report, feed = scanned(small, blocks=["y", "c"])
    assert [(layer.tensor, layer.kind) for layer in report.layers[:-1]] == [("c", "named"), ("y", "named")]
    assert_report_is_truth(report, small, feed)


def test_a_changed_output_is_said(small: Path, monkeypatch: Patch) -> None:
    assert scanned(small)[0].model.output_unchanged

    def meddle(model: Any, plan: Any) -> Any:
        changed = measuring_model(model, plan)
        proto = changed.graph.light()
        (weight,) = (w for w in proto.graph.initializer if w.name == "v")
        weight.raw_data = (1.01 * onnx.numpy_helper.to_array(weight)).tobytes()
        return dataclasses.replace(changed, graph=changed.graph.changed(proto))

    monkeypatch.setattr(scan, "measuring_model", meddle)
    report, _ = scanned(small)
    assert not report.model.output_unchanged
    assert report.model.output_difference > 1e-3
    assert any("changed the model's own output" in note for note in report.notes)


def test_the_rows_that_fill_a_fixed_batch_count_for_nothing(small: Path) -> None:
    def found() -> list[Any]:
        every = (each.statistics for each in scanned(small)[0].layers)
        return [(each.n_rows, each.kurtosis, each.rms_kurtosis, each.top3_share) for each in every]

    whole, proto = found(), onnx.load(small)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 5
    onnx.save(proto, small)
    np.testing.assert_allclose(found(), whole, rtol=1e-4)


def test_axes_are_read_or_left_out(tmp_path: Path) -> None:
    """Tokens before images are turned round; windows, and rows that are not images, are left out and counted."""
    text = """
        c = Conv(image, w16x3x2x2, kernel_shape=[2, 2], strides=[2, 2]); flat = Reshape(c, [0,16,-1])
        first = Transpose(flat, perm=[2, 0, 1]); a = MatMul(first, w16x16); x1 = Add(first, a)
        x1t = Transpose(x1, perm=[1, 0, 2]); r = Reshape(x1t, [-1,16]); b = MatMul(r, w16x16); x2 = Add(r, b)
        r2 = Reshape(x2, [-1,16,16]); win = Reshape(r2, [0,-1,2,16]); d = MatMul(win, w16x16); x3 = Add(win, d)
        embedding = ReduceMean(x3, [1,2], keepdims=0)
    """  # first: (token, image, feature)
    path = tmp_path / "axes.onnx"
    save(written(text, ("embedding", TensorProto.FLOAT, ("batch", 16)), before=""), path)
    np.save(path.with_suffix(".npy"), normal(6, 3, 8, 8).astype(np.float32))
    report, feed = scanned(path, batch_size=3)
    forms = {layer.tensor: layer.form for layer in report.layers}
    assert forms == {"first": "tokens_first", "x1": "tokens_first", "embedding": "vector"}
    assert report.model.n_left_out >= 2
    assert any("left out: their axes could not be told apart" in note for note in report.notes)
    assert_report_is_truth(report, path, feed)


@pytest.mark.requires_cuda
def test_a_gpu_gives_the_same_numbers(small: Path) -> None:
    try:
        cuda, _ = scanned(small, device="cuda")
    except EnvironmentFaultError as fault:
        pytest.skip(f"no GPU: {fault.message}")
    assert cuda.execution.providers[0] == "CUDAExecutionProvider"
    for a, b in zip(scanned(small)[0].layers, cuda.layers, strict=True):
        assert_close(a.statistics.kurtosis, b.statistics.kurtosis, rtol=1e-3)
        assert_close(a.statistics.rms_kurtosis, b.statistics.rms_kurtosis, rtol=1e-3)


def test_rows_of_another_width_than_planned_are_refused(small: Path, monkeypatch: Patch) -> None:
    """As where the number of tokens depends on the images: cut as planned, numbers would stand in others' places."""

    def one_less(model: Any, plan: Plan) -> Any:
        return measuring_model(model, plan._replace(taps=plan.taps[1:]))

    monkeypatch.setattr(scan, "measuring_model", one_less)
    raised(CannotAssessError, r"statistics of an image are \d+ numbers; \d+ were planned", scanned, small)
