"""Which weights an export takes: names and tags, partial checkpoints, a hub's cache; never random ones unsaid."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters import loading
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support import profile
from support.hub_cache import hub_repo
from support.lazy import open_clip, timm, torch, torchvision, transformers
from support.user_modules import contract_of, left_in

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("my_vision")]


def test_random_weights_are_said(tmp_path: Path, skimage_photos: list[Path]) -> None:
    record = run("timm", "test_resnet", tmp_path / "m.onnx", random_weights=True, photos=skimage_photos)
    source = contract_of(record.path)["source"]
    assert (source["random_weights"], source["weights"]) == (True, "")
    assert "matched_to" not in source


def test_a_file_says_what_it_was_matched_to_and_its_own_digest(tmp_path: Path, skimage_photos: list[Path]) -> None:
    options: dict[str, Any] = {"random_weights": True, "photos": skimage_photos, "matched_to": "CLIP ViT-B/32"}
    for precision in ("fp32", "fp16"):
        record = run("timm", "test_resnet", tmp_path / f"{precision}.onnx", precision=precision, **options)
        assert record.source.matched_to == contract_of(record.path)["source"]["matched_to"] == "CLIP ViT-B/32"
        model = open_model(record.path)
        assert (model.file_changed, model.contract and model.contract.source.matched_to) == (False, "CLIP ViT-B/32")


@pytest.mark.parametrize(
    ("source", "name", "options", "code", "text"),
    [
        ("open_clip", "ViT-B-32", {}, 2, "ViT-B-32: weights are not given; random weights are refused"),
        ("open_clip", "ViT-B-23", {}, 2, "ViT-B-23: model name is unknown to open_clip"),
        ("open_clip", "ViT-B-32", {"weights": "opneai"}, 2, "ViT-B-32: weights is opneai; it must be one of openai"),
        ("open_clip", "local-dir:absent", {}, 4, "local-dir:absent: weights are not on this machine"),
        ("timm", "restnet18", {}, 2, "restnet18: model name is unknown to timm"),
        ("timm", "resnet18.a9_in1k", {}, 2, "resnet18.a9_in1k: tag is a9_in1k; it must be one of a1_in1k"),
        ("torchvision", "resnet19", {}, 2, "resnet19: model name is unknown to torchvision"),
        ("torchvision", "resnet18", {"weights": "V9"}, 2, "resnet18: weights is V9; it must be one of IMAGENET1K_V1"),
        ("transformers", "./absent", {}, 4, "./absent: folder is missing"),
    ],
)
def test_names_and_tags(
    tmp_path: Path,
    skimage_photos: list[Path],
    source: str,
    name: str,
    options: dict[str, Any],
    code: int,
    text: str,
) -> None:
    with pytest.raises(ExportError) as caught:
        run(source, name, tmp_path / "m.onnx", photos=skimage_photos, **options)
    assert caught.value.message.startswith(text)
    assert caught.value.exit_code == code
    assert caught.value.hint


def spoilt(state: dict[str, Any], how: str) -> dict[str, Any]:
    if how == "missing":
        del state["fc.weight"]
    elif how == "unexpected":
        state["extra.weight"] = torch.zeros(2)
    else:
        state["fc.weight"] = torch.zeros(3, 3)
    return state


@pytest.mark.parametrize("how", ["missing", "unexpected", "shape"])
@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet.r160_in1k")])
def test_partial_checkpoints(tmp_path: Path, skimage_photos: list[Path], source: str, name: str, how: str) -> None:
    library = pytest.importorskip(source)
    model = library.models.resnet18() if source == "torchvision" else library.create_model("test_resnet")
    torch.save(spoilt(model.state_dict(), how), tmp_path / "w.pth")
    with pytest.raises(ExportError) as caught:
        run(source, name, tmp_path / "m.onnx", weights="w.pth", photos=skimage_photos)
    assert ("extra.weight" if how == "unexpected" else "fc.weight") in caught.value.message
    assert caught.value.exit_code == 3
    assert left_in(tmp_path) == []


def test_weights_that_a_library_leaves_random_are_seen() -> None:
    """A load with strict=False, as some timm models are loaded, does not pass unseen."""
    layer = torch.nn.Linear(2, 2)
    with loading.recorded_loads() as loads:
        layer.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    with pytest.raises(ExportError, match=r"tiny: 1 weights are missing \(bias\); they would stay random"):
        loading.refuse_partial("tiny", loads[0].missing_keys)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_checkpoint_of_unknown_preprocessing(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """torchvision published resnet50 with two preprocessings: a bare file says neither."""
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ExportError, match="preprocessing of this checkpoint is not known") as caught:
        run("torchvision", "resnet50", tmp_path / "m.onnx", weights="w.pth", photos=skimage_photos)
    assert "--preprocessing FILE" in caught.value.hint


def test_a_pickle_with_code_is_not_run(tmp_path: Path, skimage_photos: list[Path]) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "w.pth")  # a whole module: needs unpickling of classes
    with pytest.raises(ExportError, match=r"w\.pth: checkpoint is unreadable"):
        run("torch", "my_vision:encoder", tmp_path / "m.onnx", weights="w.pth", photos=skimage_photos)


def test_state_digest_sees_every_bit() -> None:
    layer = torch.nn.Linear(3, 2)
    before = loading.state_digest(layer)
    assert loading.state_digest(layer) == before
    with torch.no_grad():
        layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(9.0))
    assert loading.state_digest(layer) != before


HUB_SCRIPT = """
import sys
from pathlib import Path
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.exporters.errors import ExportError
out, photos = Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]
for source, name in (
    ("open_clip", "hf-hub:acme/clip"), ("timm", "hf-hub:acme/resnet"), ("transformers", "acme/dinov2")
):
    record = run(source, name, out / f"{source}.onnx", photos=photos)
    assert not record.source.random_weights
for source, name, options in (
    ("open_clip", "ViT-B-32", {"weights": "openai"}), ("open_clip", "hf-hub:acme/absent", {}),
    ("timm", "resnet18", {}), ("transformers", "acme/absent", {}),
):
    try:
        run(source, name, out / "absent.onnx", photos=photos, **options)
    except ExportError as error:
        print(error.exit_code, error.message, "|", error.hint, file=sys.stderr)
"""


def test_hub_cache_offline(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """The libraries' own hub loaders find a cache folder; what is not in it is exit 4 with what to place where."""
    from safetensors.torch import save_file

    cache = tmp_path / "cache"
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}
    cfg = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    folder = hub_repo(cache, "acme/clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    save_file(open_clip.model.CLIP(**cfg).state_dict(), folder / "open_clip_model.safetensors")
    folder = hub_repo(cache, "acme/resnet")
    resnet = timm.create_model("test_resnet")
    timm.models.save_for_hf(resnet, folder)
    folder = hub_repo(cache, "acme/dinov2")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(image_size=32, patch_size=16, **sizes)
    transformers.Dinov2Model(config).save_pretrained(folder)
    shape = {"height": 32, "width": 32}
    transformers.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=shape).save_pretrained(folder)

    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, str(tmp_path), *map(str, skimage_photos)],
        env={"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=profile.PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    names = {s: contract_of(tmp_path / f"{s}.onnx")["source"] for s in ("open_clip", "timm", "transformers")}
    assert names["open_clip"]["name"] == "hf-hub:acme/clip"
    assert names["timm"]["name"] == "hf-hub:acme/resnet"
    assert (names["transformers"]["name"], names["transformers"]["weights"]) == ("acme/dinov2", "0" * 40)
    assert names["timm"]["weights_digest"] == loading.state_digest(resnet)
    lines = [line for line in done.stderr.splitlines() if line.startswith("4 ")]
    assert len(lines) == 4, done.stderr[-2000:]
    assert "ViT-B-32: weights are not on this machine" in lines[0]
    assert "hf download timm/vit_base_patch32_clip_224.openai" in lines[0]
    assert "copy models--acme--absent into $HF_HOME/hub" in lines[1]
    assert "hf download timm/resnet18" in lines[2]
    assert not (tmp_path / "absent.onnx").exists()
