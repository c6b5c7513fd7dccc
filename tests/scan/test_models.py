"""Scans of whole torch models: numbers against NumPy and SciPy, planted outliers at their depth, the report."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from robustcheck_onnx.checker.cli.output import plain
from robustcheck_onnx.checker.scan import terminal
from robustcheck_onnx.checker.scan.records import ScanReport
from support.scan_truth import assert_report_is_truth, scanned


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[ScanReport, Path, Any]:
    """The scan of a tiny torch model with random weights, written by torch's old exporter, on 12 inputs.

    Class token and 16 tokens of 64 features; its third MLP adds an outlier feature to every token, its second
    attention block a massive activation to the class token alone.
    """
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scan")

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, seen: Any, outlier: Any) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(64), nn.LayerNorm(64)
            self.qkv, self.out = nn.Linear(64, 192), nn.Linear(64, 64)
            self.mlp = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
            self.register_buffer("seen", seen)
            self.register_buffer("outlier", outlier)

        def forward(self, x: Any) -> Any:
            q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
            weights = (q @ k.transpose(1, 2) / 8).softmax(dim=-1)
            x = x + (self.out(weights @ v) + self.seen)
            return x + (self.mlp(self.norm2(x)) + self.outlier)

    class Vit(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 64, 8, 8)
            self.cls = nn.Parameter(torch.randn(1, 1, 64))
            self.position = nn.Parameter(torch.randn(1, 17, 64))
            places = torch.zeros(4, 17, 64)
            places[1, 0, 21] = -4000.0
            features = torch.zeros(4, 64)
            features[2, 40] = 300.0
            self.blocks = nn.Sequential(*(Block(p, f) for p, f in zip(places, features, strict=True)))
            self.norm, self.proj = nn.LayerNorm(64), nn.Linear(64, 48, bias=False)

        def forward(self, image: Any) -> Any:
            x = self.patches(image).flatten(2).transpose(1, 2)
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position
            return self.proj(self.norm(self.blocks(x))[:, 0])

    torch.onnx.export(
        Vit().eval(), (torch.zeros(2, 3, 32, 32),), folder / "vit.onnx", dynamo=False, opset_version=17,
        input_names=["image"], output_names=["out"], dynamic_axes={"image": {0: "batch"}, "out": {0: "batch"}},
    )  # fmt: skip
    np.save(folder / "vit.npy", np.random.default_rng(0).normal(size=(12, 3, 32, 32)).astype(np.float32))
    report, feed = scanned(folder / "vit.onnx")
    return report, folder / "vit.onnx", feed


@pytest.mark.long
def test_a_whole_model_gives_what_scipy_gives_on_its_activations(scan: tuple[ScanReport, Path, Any]) -> None:
    report = scan[0]
    assert_report_is_truth(*scan)
    assert report.model.output_unchanged
    assert report.model.output_difference < 1e-4
    assert [layer.kind for layer in report.layers] == ["stem", *["attention", "mlp"] * 4, "representation"]
    assert all(layer.class_token and layer.positions == (17,) for layer in report.layers[:-1])


@pytest.mark.long
def test_planted_outliers_are_found_at_their_depth(scan: tuple[ScanReport, Path, Any]) -> None:
    report, layers = scan[0], scan[0].layers
    # stem, attention 1, mlp 1, attention 2, mlp 2, attention 3, mlp 3, …
    assert [40 in {f.feature for f in layer.statistics.persistent} for layer in layers[:-1]] == [False] * 6 + [True] * 3
    assert report.begins == 6
    for said in (
        f"Layer 7 of 10 (mlp, {layers[6].tensor})",
        "feature 40, beyond 6 SD in 94 % of the tokens measured on 12 images.",
        f"In the class token alone it is layer 4 of 10 (attention, {layers[3].tensor}): feature 21",
    ):
        assert said in report.summary
    for depth, layer in enumerate(layers[:-1]):
        planted = [m for m in layer.statistics.massive if m.feature == 21]
        told = [(m.where, m.frequency, m.token) for m in planted]
        assert told == [("class token", 1.0, 0)] * (depth >= 3), depth
        assert [m.value for m in planted] == [pytest.approx(-4000, rel=0.01)] * (depth >= 3)
    fixed = layers[3].statistics.fixed_outlier
    assert fixed is not None
    assert (fixed.feature, fixed.where) == (21, "class token")
    assert [f.feature for f in layers[3].statistics.class_token_persistent] == [21]
    assert layers[3].statistics.n_persistent == 0  # one token of 17 is no persistent feature


@pytest.mark.long
def test_the_terminal_report(scan: tuple[ScanReport, Path, Any]) -> None:
    report = scan[0]
    for width, ascii_only in ((80, True), (80, False), (120, True)):
        shown = io.StringIO()
        rendered = terminal.render(report, ascii_only=ascii_only, verbose=True)
        Console(file=shown, width=width, no_color=True).print(rendered)
        text = shown.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert text.isascii() == ascii_only == ("▲" not in text)
        flat = " ".join(text.split())
        for said in ("feature 40 layers 7", "feature 21, class token layers 4", "Information, not a verdict"):
            assert said in flat
        table = text.split("Layers")[1].split("kurtosis, RMS")[0]
        rows = re.findall(r"^ +(\d+)  (?:stem|attention|mlp|representation) ", table, re.M)
        assert rows == [str(i) for i in range(1, 11)]
        assert ("/blocks/blocks.0/Add" in table) == (width == 120)
    short = plain(terminal.render(report)).splitlines()
    assert (len(short) <= 20, short[-1] in report.summary) == (True, True)
