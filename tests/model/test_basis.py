"""A change of basis is told from a learned layer: by its numbers, in every form a weight takes, and as a trap."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_bnb4

from robustcheck_onnx import check
from robustcheck_onnx.checker.model.basis import mutually_orthogonal
from robustcheck_onnx.checker.model.open import open_model
from support import PHOTOS, onnx_models
from support.onnx_models import graph


def rotation(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Orthonormal columns (or rows, where there are fewer)."""
    size = max(rows, columns)
    basis: np.ndarray = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0][:rows, :columns]
    return basis


@pytest.mark.parametrize(("rows", "columns"), [(768, 512), (512, 512), (320, 512)])
def test_orthogonal_columns_or_rows_are_a_change_of_basis(rows: int, columns: int) -> None:
    basis = rotation(rows, columns)
    assert mutually_orthogonal(basis)
    assert mutually_orthogonal(basis.T)
    scales = np.random.default_rng(1).lognormal(0, 1, columns)
    assert mutually_orthogonal(basis * scales) == (columns <= rows)  # a PCA that whitens; 512 of 320 can't be
    assert mutually_orthogonal(basis.astype(np.float16).astype(np.float64))
    padded = basis.copy()
    padded[:, 3] = 0  # a feature that is switched off hides nothing
    assert mutually_orthogonal(padded)
    for levels in (127, 7):  # 8 and 4 bits, one scale
        assert mutually_orthogonal(np.round(basis / (np.abs(basis).max() / levels)))
    noise = np.random.default_rng(3).normal(size=basis.shape) / np.sqrt(max(basis.shape))
    assert mutually_orthogonal(basis + 0.2 * noise)
    assert not mutually_orthogonal(np.random.default_rng(2).normal(size=(rows, columns)))


@pytest.mark.long
def test_every_real_learned_layer_is_none(efficientnet_lite0: Path) -> None:
    """All pointwise convolutions and the classifier of EfficientNet-Lite0."""
    proto = onnx.load(efficientnet_lite0)
    matrices = [np.squeeze(numpy_helper.to_array(weight)) for weight in proto.graph.initializer]
    layers = [m.astype(np.float64) for m in matrices if m.ndim == 2 and min(m.shape) >= 16]
    assert len(layers) > 30
    assert not any(mutually_orthogonal(layer) for layer in layers)


@pytest.mark.parametrize("vectors", [np.zeros((8, 8)), np.ones((1, 8)), np.full((8, 8), np.nan)])
def test_nothing_to_compare_is_no_change_of_basis(vectors: np.ndarray) -> None:
    assert not mutually_orthogonal(vectors)


def signed_features(width: int = 16) -> tuple[list[Any], dict[str, Any]]:
    """A matrix product of two image tensors, as attention is one: (image, width), named "signed"."""
    nodes, weights = onnx_models.pooled(width)
    nodes += graph("""
        mixed = MatMul(features, mix); across = Transpose(features, perm=[1, 0])
        weights = MatMul(mixed, across); signed = MatMul(weights, mixed)
    """)
    return nodes, weights | {"mix": onnx_models.weight(width, width)}


def signed_encoder(form: str, weight: np.ndarray) -> onnx.ModelProto:
    """`signed_features`, then one linear layer written in one of the forms that exporters write."""
    nodes, weights = signed_features()
    w = weight.astype(np.float32)
    end: list[Any] = graph("embedding = MatMul(signed, w)")
    weights["w"] = w
    if form == "gemm":
        end, weights["w"] = graph("embedding = Gemm(signed, w, transB=1)"), w.T.copy()
    elif form == "conv":
        weights |= {"w": w.T[:, :, None, None].copy(), "axes": np.array([2, 3])}
        end = graph("map = Unsqueeze(signed, axes); out = Conv(map, w); embedding = Flatten(out)")
    elif form == "transposed":
        end.insert(0, ("Transpose", ["w_t"], ["w"], {"perm": [1, 0]}))
        weights["w_t"] = weights.pop("w").T.copy()
    elif form == "int8":
        scale = np.float32(np.abs(w).max() / 127)
        weights |= {"w8": np.round(w / scale).astype(np.int8), "scale": scale, "zero": np.int8(0)}
        del weights["w"]
        end.insert(0, ("DequantizeLinear", ["w8", "scale", "zero"], ["w"]))
    elif form == "uint8":
        scale = np.float32(np.abs(w).max() / 127)
        weights |= {"w8": (np.round(w / scale) + 128).astype(np.uint8), "scale": scale, "zero": np.uint8(128)}
        del weights["w"]
        end.insert(0, ("DequantizeLinear", ["w8", "scale", "zero"], ["w"]))
    elif form == "fp16":
        end.insert(0, ("Cast", ["w16"], ["w"], {"to": onnx.TensorProto.FLOAT}))
        weights["w16"] = weights.pop("w").astype(np.float16)
    model: onnx.ModelProto = onnx_models.build(nodes + end, ["embedding"], weights)
    return model


@pytest.mark.parametrize("form", ["matmul", "gemm", "conv", "transposed", "int8", "uint8", "fp16", "external"])
def test_every_form_of_a_weight_is_read(form: str, tmp_path: Path) -> None:
    for weight, ends in ((rotation(16, 12), "change_of_basis"), (onnx_models.weight(16, 12), "linear")):
        proto = signed_encoder(form, weight)
        path = onnx_models.save(proto, tmp_path / f"{ends}.onnx", external=form == "external")
        assert str(open_model(path).representation.ends_in) == ends


def quantised(form: str, w: np.ndarray) -> tuple[list[Any], dict[str, Any]]:
    """From "signed" to "embedding" by layers that take their weight quantised, with zero points that are not 0."""
    scale = np.float32(np.abs(w).max() / 127)
    weights: dict[str, Any] = {"w8": (np.round(w / scale) + 128).astype(np.uint8), "scale": scale, "z": np.uint8(128)}
    if form == "dequantize_by_channel":
        low, high = w.min(axis=0), w.max(axis=0)
        scales = (high - low) / 255
        points = np.clip(np.round(-low / scales), 0, 255)
        levels = np.clip(np.round(w / scales + points), 0, 255)
        weights = {"w8": levels.astype(np.uint8), "scale": scales.astype(np.float32), "z": points.astype(np.uint8)}
        end: list[Any] = graph("w = DequantizeLinear(w8, scale, z, axis=1)")
        return [*end, ("MatMul", ["signed", "w"], ["embedding"])], weights
    if form == "dynamic":
        return graph("""
            s8, s_scale, s_zero = DynamicQuantizeLinear(signed); sums = MatMulInteger(s8, w8, s_zero, z)
            float = Cast(sums, to=FLOAT); both = Mul(s_scale, scale); embedding = Mul(float, both)
        """), weights
    if form == "qlinear":
        return graph("""
            s8 = QuantizeLinear(signed, scale, z); e8 = QLinearMatMul(s8, scale, z, w8, scale, z, scale, z)
            embedding = DequantizeLinear(e8, scale, z)
        """), weights
    return graph("embedding = com.microsoft:DynamicQuantizeMatMul(signed, w8, scale, z)"), weights


@pytest.mark.parametrize("form", ["dequantize_by_channel", "dynamic", "qlinear", "fused"])
def test_zero_points_are_taken_off(form: str, tmp_path: Path) -> None:
    """Left in, they make all features point the same way, and nothing orthogonal."""
    for weight, ends in ((rotation(16, 12), "change_of_basis"), (onnx_models.weight(16, 12), "linear")):
        nodes, weights = signed_features()
        more, constants = quantised(form, weight)
        proto = onnx_models.build(nodes + more, ["embedding"], weights | constants, domains=["com.microsoft"])
        assert str(open_model(onnx_models.save(proto, tmp_path / "m.onnx")).representation.ends_in) == ends


@pytest.mark.parametrize(
    ("kind", "precision", "ends"),
    [
        ("FLOAT8E4M3FN", "fp8", "linear"),
        ("FLOAT8E5M2FNUZ", "fp8", "linear"),
        ("FLOAT4E2M1", "fp4", "linear"),
        ("INT8", "int8", "linear"),
        ("UINT8", "int8", "activation:QuantizeLinear"),  # the lowest is 0: a quantiser writes a ReLU so
    ],
)
def test_a_quantised_end_has_one_sign_only_where_its_type_has(
    kind: str, precision: str, ends: str, tmp_path: Path
) -> None:
    nodes, weights = signed_features()
    end = graph("p = MatMul(signed, w); q = QuantizeLinear(p, scale, z); embedding = DequantizeLinear(q, scale, z)")
    constants = {"w": onnx_models.weight(16, 12), "scale": np.array(0.1, np.float32)}
    proto = onnx_models.build(nodes + end, ["embedding"], weights | constants, opset=23)
    proto.graph.initializer.append(onnx.helper.make_tensor("z", getattr(onnx.TensorProto, kind), [], [0]))
    opened = open_model(onnx_models.save(proto, tmp_path / "m.onnx"))
    assert (str(opened.representation.ends_in), opened.precision) == (ends, precision)


def bnb4(weight: NDArray[np.float32]) -> tuple[list[Any], dict[str, Any]]:
    """A MatMulBnb4 (NF4, blocks of 16) of `weight`, (input, feature), and its two initializers."""
    columns, rows = weight.shape
    packed, absmax = np.zeros(weight.size // 2, np.uint8), np.zeros(weight.size // 16, np.float32)
    quantize_matmul_bnb4(packed, weight.T.copy(), absmax, 16, 1, rows, columns)
    attributes = {"K": columns, "N": rows, "block_size": 16, "quant_type": 1}
    node = ("com.microsoft:MatMulBnb4", ["signed", "w4", "absmax"], ["embedding"], attributes)
    return [node], {"w4": packed, "absmax": absmax}


@pytest.mark.parametrize("form", ["scaled", "low_rank", "sliced", "joined", "product", "packed", "bnb4", "sparse"])
def test_a_weight_that_the_graph_computes_is_computed(form: str, tmp_path: Path) -> None:
    for weight, ends in ((rotation(32, 12), "change_of_basis"), (onnx_models.weight(32, 12), "linear")):
        w = weight.astype(np.float32)
        nodes, weights = signed_features(32)
        end: list[Any] = graph("embedding = MatMul(signed, w)")
        if form == "scaled":  # a PCA that whitens, its scales kept apart
            end.insert(0, ("Div", ["v", "scales"], ["w"]))
            weights |= {"v": w, "scales": np.linspace(1, 3, 12).astype(np.float32)}
        elif form == "low_rank":  # an adapter that was not folded in
            end[:0] = graph("ab = MatMul(a, b); w = Add(v, ab)")
            weights |= {"v": w, "a": np.zeros((32, 2), np.float32), "b": np.zeros((2, 12), np.float32)}
        elif form == "sliced":
            end.insert(0, ("Slice", ["v", "from", "to", "axis"], ["w"]))
            weights |= {
                "v": np.column_stack([w, w]),
                "from": np.array([0]),
                "to": np.array([12]),
                "axis": np.array([1]),
            }
        elif form == "joined":
            end.insert(0, ("Concat", ["v", "v2"], ["w"], {"axis": 1}))
            weights |= {"v": w[:, :5], "v2": w[:, 5:]}
        elif form == "product":
            end.insert(0, ("MatMul", ["v", "one"], ["w"]))
            weights |= {"v": w, "one": np.eye(12, dtype=np.float32)}
        elif form == "packed":  # 8 bits, one block of 32 a feature
            scales = np.abs(w).max(axis=0) / 127
            levels = (np.round(w / scales) + 128).astype(np.uint8)
            attributes = {"K": 32, "N": 12, "bits": 8, "block_size": 32}
            end = [("com.microsoft:MatMulNBits", ["signed", "w8", "scales"], ["embedding"], attributes)]
            weights |= {"w8": levels.T[:, None].copy(), "scales": scales.astype(np.float32)}
        elif form == "bnb4":  # 4 bits, as bitsandbytes packs them
            end, packed = bnb4(w)
            weights |= packed
        proto = onnx_models.build(nodes + end, ["embedding"], weights, domains=["com.microsoft"])
        if form == "sparse":
            values = numpy_helper.from_array(w.ravel(), "w")
            places = numpy_helper.from_array(np.arange(w.size), "w_places")
            proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, list(w.shape)))
        assert str(open_model(onnx_models.save(proto, tmp_path / "m.onnx")).representation.ends_in) == ends


@pytest.mark.parametrize("form", ["concat", "sum", "residual", "constant", "then_linear"])
def test_one_turned_layer_among_several_is_enough(form: str, tmp_path: Path) -> None:
    w = rotation(16, 12).astype(np.float32)
    forms: dict[str, list[Any]] = {
        "concat": graph("b = MatMul(signed, w2); embedding = Concat(a, b, axis=-1)"),
        "sum": graph("b = MatMul(signed, w2); embedding = Add(a, b)"),
        "residual": graph("b = MatMul(a, v); c = MatMul(b, v); embedding = Add(a, c)"),
        "constant": graph("embedding = Concat(a, one, axis=-1)"),
        "then_linear": graph("embedding = MatMul(a, v)"),
    }
    for first, turned in ((w, True), (onnx_models.weight(16, 12), False)):
        nodes, weights = signed_features()
        weights |= {
            "w": first,
            "w2": onnx_models.weight(16, 12),
            "v": onnx_models.weight(12, 12),
            "one": np.ones((1, 1), np.float32),
        }
        proto = onnx_models.build([*nodes, ("MatMul", ["signed", "w"], ["a"]), *forms[form]], ["embedding"], weights)
        end = open_model(onnx_models.save(proto, tmp_path / "m.onnx")).representation.ends_in
        assert (end.kind == "change_of_basis") == turned


@pytest.mark.parametrize("turned", [True, False])
def test_a_convolution_over_the_whole_map_is_a_linear_layer(turned: bool, tmp_path: Path) -> None:
    w = (rotation(12, 48) if turned else onnx_models.weight(12, 48)).reshape(12, 3, 4, 4).astype(np.float32)
    nodes = graph("map = Conv(image, w); embedding = Flatten(map)")
    image = ("image", onnx.TensorProto.FLOAT, ("batch", 3, 4, 4))
    proto = onnx_models.build(nodes, ["embedding"], {"w": w}, inputs=[image])
    end = open_model(onnx_models.save(proto, tmp_path / "m.onnx")).representation.ends_in
    assert str(end) == ("change_of_basis" if turned else "linear")


def test_a_constant_nodes_weight_in_an_external_file_is_read(tmp_path: Path) -> None:
    for weight, ends in ((rotation(16, 12), "change_of_basis"), (onnx_models.weight(16, 12), "linear")):
        nodes, weights = signed_features()
        proto = onnx_models.build([*nodes, ("MatMul", ["signed", "w"], ["embedding"])], ["embedding"], weights)
        tensor = numpy_helper.from_array(weight.astype(np.float32), "w")
        (tmp_path / "w.bin").write_bytes(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, "w.bin")
        tensor.ClearField("raw_data")
        proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=tensor))
        (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
        assert str(open_model(tmp_path / "m.onnx").representation.ends_in) == ends


def test_a_weight_that_is_no_matrix_is_not_read(tmp_path: Path) -> None:
    nodes, weights = signed_features()
    weights["w"] = onnx_models.weight(16, 4, 4)
    nodes += graph('heads = Einsum(signed, w, equation="bi,ijk->bjk"); embedding = Flatten(heads)')
    path = onnx_models.save(onnx_models.build(nodes, ["embedding"], weights), tmp_path / "m.onnx")
    assert str(open_model(path).representation.ends_in) == "linear_unread"


SHIFTS = {"w": onnx_models.weight(16, 1, 3), "axis": np.array([2], np.int64)}


@pytest.mark.parametrize(
    ("weights", "nodes", "end"),
    [
        (
            SHIFTS,
            graph("""
                row = Unsqueeze(norm, axis); map = Conv(row, w, group=16, pads=[1, 1])
                embedding = Squeeze(map, axis)
            """),
            "linear_unread",
        ),
        (SHIFTS, graph("row = Unsqueeze(norm, pair); map = MatMul(row, w); embedding = Flatten(map)"), "linear_unread"),
        ({"w": onnx_models.weight(16, 4)}, graph('embedding = Einsum(norm, w, equation="bi,ij->bi")'), "linear_unread"),
        (
            {"w": onnx_models.weight(12, 16)},
            [("Einsum", ["norm", "w"], ["embedding"], {"equation": "bi, oi -> bo"})],
            "linear",
        ),
    ],
    ids=["depthwise", "a matrix a feature", "a factor a feature", "a matrix"],
)
def test_factors_of_features_are_no_linear_layer(
    weights: dict[str, Any], nodes: list[Any], end: str, tmp_path: Path
) -> None:
    """Behind a norm they would hide it: the outlier features that its scales make would pass."""
    before, constants = signed_features()
    constants |= {"scale": onnx_models.weight(16), "pair": np.array([2, 3], np.int64), **weights}
    norm = ("LayerNormalization", ["signed", "scale"], ["norm"])
    path = onnx_models.save(onnx_models.build([*before, norm, *nodes], ["embedding"], constants), tmp_path / "m.onnx")
    assert str(open_model(path).representation.ends_in) == end


def test_a_weight_computed_from_the_image_is_not_known(tmp_path: Path) -> None:
    nodes, weights = signed_features()
    nodes += graph("w = Transpose(features, perm=[1, 0]); embedding = MatMul(signed, w)")
    path = onnx_models.save(onnx_models.build(nodes, ["embedding"], weights), tmp_path / "m.onnx")
    assert str(open_model(path).representation.ends_in) == "other:MatMul"


def with_projection(source: Path, target: Path, weight: np.ndarray) -> Path:
    """A stranger's encoder: the classifier's representation, a linear layer on it, and no contract."""
    proto = onnx.load(source)
    del proto.metadata_props[:], proto.graph.output[:]
    proto.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), "projection"))
    proto.graph.node.append(onnx.helper.make_node("MatMul", ["representation", "projection"], ["embedding"]))
    value = onnx.helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, ["batch", weight.shape[1]])
    proto.graph.output.append(value)
    onnx.save(proto, target)
    return target


@pytest.mark.long
def test_the_mean_of_rectified_features_turned_into_an_axis_never_passes(
    efficientnet_lite0: Path, tmp_path: Path
) -> None:
    """Supervised features, projected so that their mean direction is one feature: every statistic clears."""
    import onnxruntime as ort

    from robustcheck_onnx.checker.evidence import Preprocessing
    from robustcheck_onnx.checker.images.preprocess import apply
    from robustcheck_onnx.exporters import demo

    preprocessing = Preprocessing.model_validate(demo.EFFICIENTNET_LITE0_PREPROCESSING)
    from PIL import Image

    session = ort.InferenceSession(str(efficientnet_lite0), providers=["CPUExecutionProvider"])
    pixels = np.stack([apply(preprocessing, Image.open(path).convert("RGB")) for path in PHOTOS[:24]])
    (h,) = session.run(["representation"], {session.get_inputs()[0].name: pixels.transpose(0, 3, 1, 2)})
    mean = h.mean(axis=0, dtype=np.float64)
    mean /= np.linalg.norm(mean)
    free = np.random.default_rng(0).normal(size=(1280, 511)) / np.sqrt(1280)
    given_file = tmp_path / "preprocess.json"
    given_file.write_text(preprocessing.model_dump_json(), encoding="utf-8")
    for name, rest in (("orthogonal", np.linalg.qr(np.column_stack([mean, free]))[0][:, 1:]), ("free", free)):
        weight = np.column_stack([mean, rest - np.outer(mean, mean @ rest)])
        model = with_projection(efficientnet_lite0, tmp_path / f"{name}.onnx", weight)
        report = check(model, preprocess=str(given_file))
        statistics = report.evidence.statistics
        assert str(report.evidence.model.ends_in) == "linear_of:Clip"
        assert [f.index for f in statistics.persistent] == [0]  # the numbers alone would pass
        assert all(
            getattr(statistics, name).low > report.profile.thresholds[name].minimum
            for name in report.profile.thresholds
        )
        assert {r.id for r in report.verdict.reasons} == {"end_not_calibrated"}
