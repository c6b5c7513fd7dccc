"""Scan of a whole ViT: numbers against NumPy and SciPy, planted outliers at their depth, the report."""

import re
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from support import Fields, Patch, normal
from support.onnx_models import save, weight, written
from support.screens import shown
from support.truths import assert_report_is_truth, scanned

TOKENS = """
    grid = Conv(image, patch, strides=[8, 8]); rows = Reshape(grid, [0,64,-1])
    patches = Transpose(rows, perm=[0, 2, 1])
    shape = Shape(patches); n = Gather(shape, [0]); class_shape = Concat(n, [1,64], axis=0)
    classes = Expand(w1x1x64, class_shape); all = Concat(classes, patches, axis=1); x0 = Add(all, w1x17x64)
"""
BLOCK = """
    n{0} = LayerNormalization(x{0}, ones); q{0} = MatMul(n{0}, w); k{0} = Transpose(n{0}, perm=[0, 2, 1])
    scores{0} = MatMul(q{0}, k{0}); s{0} = Softmax(scores{0}); v{0} = MatMul(s{0}, n{0}); o{0} = MatMul(v{0}, w)
    seen{0} = Add(o{0}, place{0}); attended{0} = Add(x{0}, seen{0}); m{0} = LayerNormalization(attended{0}, ones)
    up{0} = MatMul(m{0}, w); relu{0} = Relu(up{0}); down{0} = MatMul(relu{0}, w); more{0} = Add(down{0}, feature{0})
    x{1} = Add(attended{0}, more{0})
"""
END = "norm = LayerNormalization(x4, ones); class = Gather(norm, 0, axis=1); out = MatMul(class, w64x48)"


def test_planted_outliers_are_found_at_their_depth(tmp_path: Path, monkeypatch: Patch) -> None:
    """A tiny ViT with random weights on 12 inputs: class token and 16 tokens of 64 features.

    Its third MLP adds an outlier feature to every token, its second attention block a massive activation to the class
    token alone.
    """
    monkeypatch.chdir(tmp_path)  # the report names the file, in as many lines as its path needs
    places, features = np.zeros((4, 17, 64), np.float32), np.zeros((4, 64), np.float32)
    places[1, 0, 21], features[2, 40] = -4000, 300
    weights: Fields = {"patch": weight(64, 3, 8, 8) / 20, "w": weight(64, 64) / 8, "ones": np.ones(64, np.float32)}
    for i in range(4):
        weights |= {f"place{i}": places[i], f"feature{i}": features[i]}
    text = TOKENS + "".join(BLOCK.format(i, i + 1) for i in range(4)) + END
    image = ("image", TensorProto.FLOAT, ("batch", 3, 32, 32))
    model = written(text, ("out", TensorProto.FLOAT, ("batch", 48)), before="", inputs=[image], **weights)
    path = save(model, Path("vit.onnx"))
    np.save(path.with_suffix(".npy"), normal(12, 3, 32, 32).astype(np.float32))
    report, feed = scanned(path)
    layers = report.layers
    assert_report_is_truth(report, path, feed)
    assert report.model.output_unchanged
    assert report.model.output_difference < 1e-4
    assert [layer.kind for layer in layers] == ["stem", *["attention", "mlp"] * 4, "representation"]
    assert all(layer.class_token and layer.positions == (17,) for layer in layers[:-1])
    # stem, attention 1, mlp 1, attention 2, mlp 2, attention 3, mlp 3, …
    assert [40 in {f.feature for f in layer.statistics.persistent} for layer in layers[:-1]] == [False] * 6 + [True] * 3
    assert report.begins == 6
    for depth, layer in enumerate(layers[:-1]):
        told: list[object] = [
            (m.where, m.frequency, m.token, m.value) for m in layer.statistics.massive if m.feature == 21
        ]
        assert told == [("class token", 1.0, 0, pytest.approx(-4000, rel=0.01))] * (depth >= 3), depth
    found = layers[3].statistics
    assert found.fixed_outlier is not None
    assert (found.fixed_outlier.feature, found.fixed_outlier.where) == (21, "class token")
    assert [f.feature for f in found.class_token_persistent] == [21]
    assert found.n_persistent == 0  # one token of 17 is not a persistent feature
    for width in (80, 120):
        text = shown(report, width, verbose=True)
        for said in (
            f"Layer 7 of 10 (mlp, {layers[6].tensor})",
            "feature 40, beyond 6 SD in 94 % of the tokens of 12 images.",
            f"In the class token alone it is layer 4 of 10 (attention, {layers[3].tensor}): feature 21",
            "feature 40 layers 7",
            "feature 21, class token layers 4",
        ):
            assert said in " ".join(text.split())
        rows = re.findall(r"^ +(\d+)  (?:stem|attention|mlp|representation) ", text, re.M)
        assert rows == [str(i) for i in range(1, 11)]
        assert bool(re.search("^ .* attended0", text, re.M)) == (width == 120)
    assert len(shown(report).splitlines()) <= 22  # the first is the version
