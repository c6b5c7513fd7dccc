"""Addresses that are exported first: a timm checkpoint on a hub on the loopback interface, as one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.cli import app as cli
from robustcheck_onnx.checker.cli import exported
from robustcheck_onnx.checker.cli.models import stem
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.limits import Limits
from support import mock_hub
from support.mock_hub import MockHub

timm = pytest.importorskip("timm", reason="the extra export is not installed")
constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is not installed")


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MockHub]:
    """A hub with one timm checkpoint of random weights."""
    from safetensors.torch import save

    model = timm.create_model("test_vit", pretrained=False)
    given = {"input_size", "mean", "std", "crop_pct", "interpolation", "first_conv", "classifier", "pool_size"}
    pretrained = {name: value for name, value in model.pretrained_cfg.items() if name in given}
    config = {"architecture": "test_vit", "num_classes": 1000, "num_features": model.num_features}
    with mock_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("ROBUSTCHECK_CACHE_DIR", str(tmp_path / "cache"))
        monkeypatch.delenv("ROBUSTCHECK_NO_CACHE", raising=False)
        whole = config | {"pretrained_cfg": pretrained}
        running.put(
            "org/vit", {"config.json": json.dumps(whole).encode(), "model.safetensors": save(model.state_dict())}
        )
        yield running


@pytest.mark.long
def test_a_checkpoint_on_the_hub_is_exported_once_and_checked(
    served: MockHub,
    photos_80: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["hf://org/vit", "--images", str(photos_80), "-o", "json={model}.json", "--max-images", "5", "-q"]
    assert cli.main(words) == 2
    assert "it holds a checkpoint of timm" in capsys.readouterr().err
    assert cli.main([*words, "--export"]) == 1
    model = json.loads((tmp_path / "vit.json").read_text())["evidence"]["model"]
    commit = served.commits["org/vit"]
    assert model["file"] == "hf://org/vit"
    assert model["origin"]["revision"] == commit
    assert f"hf-hub:org/vit@{commit}" in model["source"]
    kept = Path(model["origin"]["file"])
    assert kept.parent == tmp_path / "cache" / "exports"

    exports: list[Any] = []
    real = exported._exported

    def counted(*given: Any) -> None:
        exports.append(given)
        real(*given)

    monkeypatch.setattr(exported, "_exported", counted)
    assert cli.main([*words, "--export"]) == 1
    assert exports == []  # the kept file
    kept.write_bytes(kept.read_bytes()[:-1] + b"\0")  # changed by somebody else: not believed
    assert cli.main([*words, "--export"]) == 1
    assert len(exports) == 1
    assert json.loads((tmp_path / "vit.json").read_text())["evidence"]["model"]["digest"] == model["digest"]
    assert cli.main(["cache", "clear"]) == 0
    assert list((tmp_path / "cache" / "exports").iterdir()) == []


@pytest.mark.long
def test_the_exporters_own_error_is_told(
    tmp_path: Path, photos_80: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROBUSTCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBUSTCHECK_NO_CACHE", raising=False)
    assert cli.main(["timm:resnet5o", "--images", str(photos_80)]) == 2
    said = capsys.readouterr().err
    assert "error: timm:resnet5o: resnet5o: model name is unknown to timm" in said
    assert "closest: resnet50" in said
    assert list((tmp_path / "cache" / "exports").iterdir()) == []
    export = exported.planned("timm:resnet50", allowed=False)
    assert export is not None
    with (
        pytest.raises(CannotAssessError, match="export took more than"),
        exported.on_disk(export, Limits(timeout_s=0.01), lambda _: None),
    ):
        pass


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("open_clip:ViT-B-32/openai", ("open_clip", "ViT-B-32", "openai")),
        ("open_clip:hf-hub:org/repo", ("open_clip", "hf-hub:org/repo", None)),
        ("torchvision:resnet50/IMAGENET1K_V2", ("torchvision", "resnet50", "IMAGENET1K_V2")),
        ("timm:vit_base_patch16_clip_224.openai", ("timm", "vit_base_patch16_clip_224.openai", None)),
        ("transformers:openai/clip-vit-base-patch32", ("transformers", "openai/clip-vit-base-patch32", None)),
    ],
)
def test_how_an_address_is_read(word: str, parts: tuple[str, str, str | None]) -> None:
    export = exported.planned(word, allowed=False)
    assert export is not None
    assert (export.source, export.name, export.weights) == parts


def test_what_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert exported.planned("model.onnx", allowed=True) is None
    assert exported.planned("torch:os:getcwd", allowed=True) is None  # a factory is code
    Path("timm:x").write_bytes(b"")
    assert exported.planned("timm:x", allowed=True) is None  # a file of that name
    monkeypatch.setenv("ROBUSTCHECK_OFFLINE", "1")
    with pytest.raises(UsageError, match="may have to download weights"):
        exported.planned("timm:resnet50", allowed=False)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("hf://org/repo@v1.0", "repo@v1.0"),
        ("hf://org/repo/onnx/model.onnx", "model"),
        ("models:/encoder/3", "encoder-3"),
        ("models:/encoder@champion", "encoder@champion"),
        ("timm:vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_224.openai"),
        ("open_clip:ViT-B-32/openai", "ViT-B-32-openai"),
        ("s3://bucket/a.b.onnx", "a.b"),
    ],
)
def test_what_stands_for_the_model_in_a_reports_path(address: str, name: str) -> None:
    assert stem(address) == name


def test_a_check_of_an_address_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from robustcheck_onnx.checker.cli import exported; "
        "exported.planned('timm:resnet50', allowed=True); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"HOME": str(tmp_path)}, check=False)
    assert done.returncode == 0


@pytest.fixture
def exports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cache, and an exporter that writes how often it ran; the names that it was asked for."""
    monkeypatch.setenv("ROBUSTCHECK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBUSTCHECK_NO_CACHE", raising=False)
    asked: list[str] = []

    def written(export: exported.Export, path: Path, _: Limits) -> None:
        asked.append(export.name)
        path.write_text(f"export {len(asked)}")
        path.with_name(f"{path.name}.data").write_text(f"weights {len(asked)}")

    monkeypatch.setattr(exported, "_exported", written)
    return asked


def content(word: str) -> tuple[str, str]:
    export = exported.planned(word, allowed=False)
    assert export is not None
    with exported.on_disk(export, Limits(), lambda _: None) as (file, _):
        return Path(file).read_text(), Path(f"{file}.data").read_text()


@pytest.mark.parametrize(
    "word",
    [
        "timm:local-dir:checkpoint",
        "open_clip:local-dir:checkpoint",
        "timm:hf-hub:org/repo",
        "timm:HF-HUB:org/repo",
        "transformers:./checkpoint",
        "transformers:org/repo",
        "transformers:checkpoint",
    ],
)
def test_weights_that_no_name_pins_are_exported_each_time(word: str, exports: list[str], tmp_path: Path) -> None:
    """A folder that was trained on, or a repository's newest commit: an export that was kept would be another model."""
    assert content(word) == ("export 1", "weights 1")
    assert content(word) == ("export 2", "weights 2")
    assert not (tmp_path / "cache").exists()


def test_a_kept_export_counts_only_with_its_own_weights(exports: list[str], tmp_path: Path) -> None:
    """Weights of more than 2 GB lie in a second file, which is as much the model as the first."""
    assert content("timm:resnet50.a1_in1k") == content("timm:resnet50.a1_in1k") == ("export 1", "weights 1")
    (weights,) = (tmp_path / "cache" / "exports").glob("*.data")
    weights.write_text("of somebody else")
    assert content("timm:resnet50.a1_in1k") == ("export 2", "weights 2")
    weights.unlink()
    assert content("timm:resnet50.a1_in1k") == ("export 3", "weights 3")
    assert len(list((tmp_path / "cache" / "exports").iterdir())) == 3  # no draft is left


def test_an_export_takes_nothing_from_under_another_process(
    exports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls export the same checkpoint: what the first one reads stays, and the second takes it, too."""
    written = exported._exported

    def after_another(export: exported.Export, path: Path, limits: Limits) -> None:
        monkeypatch.setattr(exported, "_exported", written)
        assert content("timm:resnet50.a1_in1k") == ("export 1", "weights 1")
        (kept,) = (tmp_path / "cache" / "exports").glob("*.onnx")
        written(export, path, limits)
        assert kept.read_text() == "export 1"

    monkeypatch.setattr(exported, "_exported", after_another)
    assert content("timm:resnet50.a1_in1k") == ("export 1", "weights 1")
    assert exports == ["resnet50.a1_in1k"] * 2


def test_a_folder_named_as_the_repository_is_not_exported(
    served: MockHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers loads the folder org/clip where there is one, and would say nothing."""
    served.put("org/clip", {"config.json": b'{"model_type": "clip"}'})
    monkeypatch.chdir(tmp_path)
    export = exported.planned("hf://org/clip", allowed=True)
    assert export is not None
    assert (export.source, export.commit) == ("transformers", served.commits["org/clip"])
    Path("org/clip").mkdir(parents=True)
    with pytest.raises(UsageError, match="transformers would load it in place of the hub's repository"):
        exported.planned("hf://org/clip", allowed=True)


def test_an_exporter_that_dies_shows_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    export = exported.planned("timm:resnet50", allowed=False)
    assert export is not None
    said = "Traceback: token hf_0123456789 at https://user:secret@host/x?sig=abc"
    assert exported._told(export, -9, said).message.endswith("token *** at https://***@host/x?***")
