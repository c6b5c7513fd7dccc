"""A change of basis is told from a learned layer: by its numbers, in every form a weight takes, and as a trap."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array, to_array
from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

from robustcheck_onnx import check
from robustcheck_onnx.checker.model.ends import mutually_orthogonal
from robustcheck_onnx.checker.model.open import open_model
from support import Fields, lookup, normal, onnx_models
from support.onnx_models import Array, written


def rotation(rows: int, columns: int) -> np.ndarray:
    """Orthonormal columns (or rows, where there are fewer)."""
    size = max(rows, columns)
    return np.linalg.qr(normal(size, size))[0][:rows, :columns]


def test_orthogonal_columns_or_rows_are_a_change_of_basis() -> None:
    for rows, columns in [(768, 512), (512, 512), (320, 512)]:
        basis = rotation(rows, columns)
        assert mutually_orthogonal(basis)
        assert mutually_orthogonal(basis.T)
        scales = default_rng(1).lognormal(0, 1, columns)
        assert mutually_orthogonal(basis * scales) == (columns <= rows)  # a PCA that whitens; 512 of 320 can't be
        assert mutually_orthogonal(basis.astype(np.float16).astype(np.float64))
        padded = basis.copy()
        padded[:, 3] = 0  # a feature that is switched off hides nothing
        assert mutually_orthogonal(padded)
        for levels in (127, 7):  # 8 and 4 bits, one scale
            assert mutually_orthogonal(np.round(basis / (np.abs(basis).max() / levels)))
        noise = normal(*basis.shape, seed=3) / np.sqrt(max(basis.shape))
        assert mutually_orthogonal(basis + 0.2 * noise)
        assert not mutually_orthogonal(normal(rows, columns, seed=2))


@pytest.mark.long
def test_every_real_learned_layer_is_none(efficientnet_lite0: Path) -> None:
    """All pointwise convolutions and the classifier of EfficientNet-Lite0."""
    proto = onnx.load(efficientnet_lite0)
    matrices = [np.squeeze(to_array(weight)) for weight in proto.graph.initializer]
    layers = [m.astype(np.float64) for m in matrices if m.ndim == 2 and min(m.shape) >= 16]
    assert len(layers) > 30
    assert not any(mutually_orthogonal(layer) for layer in layers)


def test_nothing_to_compare_is_no_change_of_basis() -> None:
    for vectors in [np.zeros((8, 8)), np.ones((1, 8)), np.full((8, 8), np.nan)]:
        assert not mutually_orthogonal(vectors)


SIGNED = """
    conv = Conv(image, w32x3x3x3, kernel_shape=[3, 3]); relu = Relu(conv); gap = GlobalAveragePool(relu)
    features = Flatten(gap); mixed = MatMul(features, w32x32); across = Transpose(features, perm=[1, 0])
    weights = MatMul(mixed, across); signed = MatMul(weights, mixed)
"""
"""A matrix product of two image tensors, as attention is one: (image, 32), named "signed"."""
MATMUL = "embedding = MatMul(signed, w)"
Form = tuple[str, Fields]


def forms(w: Array) -> dict[str, Form]:
    """One linear layer from "signed" to "embedding" in the forms that exporters write."""
    scale = np.abs(w).max() / 127
    int8 = np.round(w / scale).astype(np.int8)
    uint8 = {"w8": (int8.astype(np.int64) + 128).astype(np.uint8), "scale": scale, "z": np.uint8(128)}
    low = w.min(axis=0)
    scales = (w.max(axis=0) - low) / 255
    points = np.clip(np.round(-low / scales), 0, 255)
    by_channel = np.clip(np.round(w / scales + points), 0, 255).astype(np.uint8)
    largest = np.abs(w).max(axis=0) / 127
    blocks = (np.round(w / largest) + 128).astype(np.uint8).T[:, None]
    packed, absmax = np.zeros(w.size // 2, np.uint8), np.zeros(w.size // 16, np.float32)
    quantize_matmul_bnb4(packed, w.T.copy(), absmax, 16, 1, 12, 32)
    return {
        "matmul": (MATMUL, {"w": w}),
        "gemm": ("embedding = Gemm(signed, w, transB=1)", {"w": w.T}),
        "conv": (
            "map = Unsqueeze(signed, [2,3]); out = Conv(map, w); embedding = Flatten(out)",
            {"w": w.T[:, :, None, None]},
        ),
        "transposed": (f"w = Transpose(t, perm=[1, 0]); {MATMUL}", {"t": w.T}),
        "fp16": (f"w = Cast(w16, to=FLOAT); {MATMUL}", {"w16": w.astype(np.float16)}),
        "int8": (f"w = DequantizeLinear(w8, scale); {MATMUL}", {"w8": int8, "scale": scale}),
        # zero points, left in, make all features point the same way, and nothing orthogonal
        "uint8": (f"w = DequantizeLinear(w8, scale, z); {MATMUL}", uint8),
        "by channel": (
            f"w = DequantizeLinear(w8, scales, z, axis=1); {MATMUL}",
            {"w8": by_channel, "scales": scales, "z": points.astype(np.uint8)},
        ),
        "dynamic": (
            """
            s8, s_scale, s_zero = DynamicQuantizeLinear(signed); sums = MatMulInteger(s8, w8, s_zero, z)
            float = Cast(sums, to=FLOAT); both = Mul(s_scale, scale); embedding = Mul(float, both)
            """,
            uint8,
        ),
        "qlinear": (
            """
            s8 = QuantizeLinear(signed, scale, z); e8 = QLinearMatMul(s8, scale, z, w8, scale, z, scale, z)
            embedding = DequantizeLinear(e8, scale, z)
            """,
            uint8,
        ),
        "8 bits, one block of 32 a feature": (
            "embedding = com.microsoft:MatMulNBits(signed, w8, scales, K=32, N=12, bits=8, block_size=32)",
            {"w8": blocks, "scales": largest},
        ),
        "4 bits, as bitsandbytes packs them": (
            "embedding = com.microsoft:MatMulBnb4(signed, w4, absmax, K=32, N=12, block_size=16, quant_type=1)",
            {"w4": packed, "absmax": absmax},
        ),
        "fused": ("embedding = com.microsoft:DynamicQuantizeMatMul(signed, w8, scale, z)", uint8),
        # a weight that the graph computes: a PCA that whitens, its scales kept apart
        "scaled": (f"w = Div(v, scales); {MATMUL}", {"v": w, "scales": np.linspace(1, 3, 12)}),
        # an adapter that was not folded in
        "low rank": (f"ab = MatMul(a, b); w = Add(v, ab); {MATMUL}", {"v": w, "a": 0 * w[:, :2], "b": 0 * w[:2]}),
        "sliced": (f"w = Slice(v, [0], [12], [1]); {MATMUL}", {"v": np.column_stack([w, w])}),
        "joined": (f"w = Concat(v, v2, axis=1); {MATMUL}", {"v": w[:, :5], "v2": w[:, 5:]}),
        "product": (f"w = MatMul(v, one); {MATMUL}", {"v": w, "one": np.eye(12)}),
        # one turned layer among several is enough
        "beside another": (f"{FIRST}; b = MatMul(signed, w32x12); embedding = Concat(a, b, axis=-1)", {"w": w}),
        "sum": (f"{FIRST}; b = MatMul(signed, w32x12); embedding = Add(a, b)", {"w": w}),
        "residual": (f"{FIRST}; b = MatMul(a, w12x12); c = MatMul(b, w12x12); embedding = Add(a, c)", {"w": w}),
        "beside a constant": (f"{FIRST}; embedding = Concat(a, [[1.0]], axis=-1)", {"w": w}),
        "then linear": (f"{FIRST}; embedding = MatMul(a, w12x12)", {"w": w}),
    }


OTHERS = {"sum": "other", "residual": "second_linear", "then linear": "second_linear"}
FIRST = "a = MatMul(signed, w)"
TURNED, LEARNED = (each.astype(np.float32) for each in (rotation(32, 12), onnx_models.weight(32, 12)))


def test_every_form_of_a_weight_is_read(opened: Any) -> None:
    for form in forms(TURNED):
        for weight, turned in ((TURNED, True), (LEARNED, False)):
            text, constants = forms(weight)[form]
            end = opened(written(text, before=SIGNED, **constants)).representation.ends_in
            assert (end.kind == "change_of_basis") == turned
            assert turned or end.kind == OTHERS.get(form, "linear"), form


IMAGE_4 = ("image", TensorProto.FLOAT, ("batch", 3, 4, 4))


@pytest.mark.parametrize("form", ["convolution over the whole map", "sparse", "external", "a node's, external"])
def test_wherever_a_weight_stands_it_is_read(form: str, tmp_path: Path) -> None:
    for make, ends in ((rotation, "change_of_basis"), (onnx_models.weight, "linear")):
        w = make(48 if form.startswith("convolution") else 32, 12).astype(np.float32)
        model, path = written(MATMUL, before=SIGNED, w=w), tmp_path / f"{ends}.onnx"
        if form == "convolution over the whole map":
            kernel = np.ascontiguousarray(w.T).reshape(12, 3, 4, 4)
            text = "map = Conv(image, w); embedding = Flatten(map)"
            model = written(text, before="", inputs=[IMAGE_4], w=kernel)
        elif form != "external":
            tensor = model.graph.initializer.pop(0)
            sparse = helper.make_sparse_tensor(from_array(w.ravel(), "w"), from_array(np.arange(w.size), "at"), w.shape)
            if form == "sparse":
                model.graph.sparse_initializer.append(sparse)
            else:
                (tmp_path / "w.bin").write_bytes(tensor.raw_data)
                onnx.external_data_helper.set_external_data(tensor, "w.bin")
                tensor.ClearField("raw_data")
                model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        if form == "external":
            onnx_models.save(model, path, external=True)
        else:
            path.write_bytes(model.SerializeToString())
        assert str(open_model(path).representation.ends_in) == ends


def test_a_quantised_end_has_one_sign_only_where_its_type_has(opened: Any) -> None:
    for kind, precision, ends in [
        ("FLOAT8E4M3FN", "fp8", "linear"),
        ("FLOAT8E5M2FNUZ", "fp8", "linear"),
        ("FLOAT4E2M1", "fp4", "linear"),
        ("INT8", "int8", "linear"),
        ("UINT8", "int8", "activation:QuantizeLinear"),  # the lowest is 0: a quantiser writes a ReLU so
    ]:
        text = "p = MatMul(signed, w32x12); q = QuantizeLinear(p, 0.1, z); embedding = DequantizeLinear(q, 0.1, z)"
        proto = written(text, before=SIGNED, opset=23, z=0)
        proto.graph.initializer[0].CopyFrom(helper.make_tensor("z", getattr(TensorProto, kind), [], [0]))
        found = opened(proto)
        assert (str(found.representation.ends_in), found.precision) == (ends, precision)


NORM = "norm = LayerNormalization(signed, w32)"


def test_what_is_no_matrix_is_no_linear_layer(opened: Any) -> None:
    for text, end in {
        'heads = Einsum(signed, w32x4x4, equation="bi,ijk->bjk"); embedding = Flatten(heads)': "linear_unread",
        "w = Transpose(features, perm=[1, 0]); embedding = MatMul(signed, w)": "other:MatMul",  # of the image
        # factors of features: behind a norm they would hide the outlier features that its scales make
        f"{NORM}; row = Unsqueeze(norm, [2]); map = Conv(row, w32x1x3, group=32, pads=[1, 1])\n"
        "embedding = Squeeze(map, [2])": "linear_unread",
        f"{NORM}; row = Unsqueeze(norm, [2,3]); map = MatMul(row, w32x1x3); embedding = Flatten(map)": "linear_unread",
        f'{NORM}; embedding = Einsum(norm, w32x4, equation="bi,ij->bi")': "linear_unread",
        f'{NORM}; embedding = Einsum(norm, w12x32, equation="bi ,oi -> bo")': "linear",
    }.items():
        assert str(opened(written(text, before=SIGNED)).representation.ends_in) == end


def test_the_mean_of_rectified_features_turned_into_an_axis_never_passes(tmp_path: Path, photos_80: Path) -> None:
    """Rectified features, projected so that their mean direction is one feature: every statistic clears."""
    random = default_rng(0)
    h = np.maximum(random.normal(size=(80, 1280)), 0)
    mean = h.mean(axis=0) / np.linalg.norm(h.mean(axis=0))
    free = random.normal(size=(1280, 511)) / np.sqrt(1280)
    path = tmp_path / "m.onnx"
    for rest in (np.linalg.qr(np.column_stack([mean, free]))[0][:, 1:], free):
        lookup.write_lookup_model(
            path,
            h,
            then="rectified = Clip(rows, 0.0); representation = MatMul(rectified, w)",
            outputs=[("representation", TensorProto.FLOAT, ("batch", 512))],
            w=np.column_stack([mean, rest - np.outer(mean, mean @ rest)]).astype(np.float32),
        )
        report = check(path, images=photos_80)
        statistics = report.evidence.statistics
        assert str(report.evidence.model.ends_in) == "linear_of:Clip"
        assert [f.index for f in statistics.persistent] == [0]  # the numbers alone would pass
        assert all(getattr(statistics, name).low > limit.minimum for name, limit in report.profile.thresholds.items())
        assert {r.id for r in report.verdict.reasons} == {"end_not_calibrated"}
