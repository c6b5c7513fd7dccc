"""Which weights an export takes: names and tags, partial checkpoints, a hub's cache; never random ones unsaid."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters.contract import state_digest
from robustcheck_onnx.exporters.errors import ExportError
from robustcheck_onnx.exporters.run import run
from support import Fields, checkpoints
from support.hub_cache import hub_repo
from support.lazy import timm, torch, torchvision, transformers
from support.user_modules import contract_of, left_in, refused

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("my_vision")]


def test_random_weights_and_what_they_were_matched_to_are_said(tmp_path: Path, skimage_photos: list[Path]) -> None:
    for precision, matched in (("fp32", None), ("fp16", "CLIP ViT-B/32")):
        options: Fields = {"precision": precision, "random_weights": True, "matched_to": matched}
        record = run("timm", "test_resnet", tmp_path / f"{precision}.onnx", photos=skimage_photos, **options)
        source = contract_of(record.path)["source"]
        assert (source["random_weights"], source["weights"], source.get("matched_to")) == (True, "", matched)
        model = open_model(record.path)
        assert model.contract is not None
        assert (model.file_changed, model.contract.source.matched_to or None) == (False, matched)


def test_names_and_tags(tmp_path: Path, skimage_photos: list[Path]) -> None:
    for source, name, weights, code, text in [
        ("open_clip", "ViT-B-32", None, 2, "weights are not given; random weights are refused"),
        ("open_clip", "ViT-B-23", None, 2, "model name is unknown to open_clip"),
        ("open_clip", "ViT-B-32", "opneai", 2, "weights is opneai; it must be one of openai"),
        ("open_clip", "local-dir:absent", None, 4, "weights are not on this machine"),
        ("timm", "restnet18", None, 2, "model name is unknown to timm"),
        ("timm", "resnet18.a9_in1k", None, 2, "tag is a9_in1k; it must be one of a1_in1k"),
        ("torchvision", "resnet19", None, 2, "model name is unknown to torchvision"),
        ("torchvision", "resnet18", "V9", 2, "weights is V9; it must be one of IMAGENET1K_V1"),
        ("transformers", "./absent", None, 4, "folder is missing"),
    ]:
        with pytest.raises(ExportError) as caught:
            run(source, name, tmp_path / "m.onnx", photos=skimage_photos, weights=weights)
        assert caught.value.message.startswith(f"{name}: {text}")
        assert (caught.value.exit_code, bool(caught.value.hint)) == (code, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"fc.weight": None}, "fc.weight"), ({"extra.weight": 2}, "extra.weight"), ({"fc.weight": 3}, "fc.weight")],
)
@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet.r160_in1k")])
def test_partial_checkpoints(
    tmp_path: Path, skimage_photos: list[Path], source: str, name: str, change: dict[str, int | None], said: str
) -> None:
    model = torchvision.models.resnet18() if source == "torchvision" else timm.create_model("test_resnet")
    state = model.state_dict() | {key: size and torch.zeros(size) for key, size in change.items()}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "w.pth")
    with refused(3, said):
        run(source, name, tmp_path / "m.onnx", weights="w.pth", photos=skimage_photos)
    assert left_in(tmp_path) == []


def test_weights_that_a_library_leaves_random_are_seen() -> None:
    """A load with strict=False, as some timm models are loaded, does not pass unseen."""
    from robustcheck_onnx.exporters import wrappers

    layer = torch.nn.Linear(2, 2)
    with wrappers.loading("tiny", "") as (_, loads):
        layer.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    with pytest.raises(ExportError, match=r"tiny: 1 weights are missing \(bias\); they would stay random"):
        wrappers.refuse_partial("tiny", loads[0].missing_keys)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_checkpoints_that_are_refused(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """torchvision published resnet50 with two preprocessings; a whole module needs unpickling of classes."""
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / "state.pth")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    for call, weights, said in (
        (("torchvision", "resnet50"), "state.pth", "preprocessing of this checkpoint is not known"),
        (("torch", "my_vision:encoder"), "code.pth", r"code\.pth: checkpoint is unreadable"),
    ):
        with pytest.raises(ExportError, match=said) as caught:
            run(*call, tmp_path / "m.onnx", weights=weights, photos=skimage_photos)
        assert weights == "code.pth" or "--preprocessing FILE" in caught.value.hint


def test_state_digest_sees_every_bit() -> None:
    layer = torch.nn.Linear(3, 2)
    before = state_digest(layer)
    assert state_digest(layer) == before
    with torch.no_grad():
        layer.bias[1] = torch.nextafter(layer.bias[1], torch.tensor(9.0))
    assert state_digest(layer) != before


HUB_SCRIPT = """
import sys
from pathlib import Path
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.exporters.errors import ExportError
out, photos = Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]]
for source, name in (
    ("open_clip", "hf-hub:acme/clip"), ("timm", "hf-hub:acme/resnet"), ("transformers", "acme/dinov2")
):
    run(source, name, out / f"{source}.onnx", photos=photos)
for source, name, options in (
    ("open_clip", "ViT-B-32", {"weights": "openai"}), ("open_clip", "hf-hub:acme/absent", {}),
    ("timm", "resnet18", {}), ("transformers", "acme/absent", {}),
):
    try:
        run(source, name, out / "absent.onnx", photos=photos, **options)
    except ExportError as error:
        print(error.exit_code, error.message, "|", error.hint)
"""


def test_hub_cache_offline(tmp_path: Path, skimage_photos: list[Path]) -> None:
    """The libraries' own hub loaders find a cache folder; what is not in it is exit 4 with what to place where."""
    clip, timms, dinov2 = (hub_repo(tmp_path, f"acme/{name}") for name in ("clip", "resnet", "dinov2"))
    checkpoints.open_clip_folder(clip)
    resnet = timm.create_model("test_resnet")
    timm.models.save_for_hf(resnet, timms)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Dinov2Config(image_size=32, patch_size=16, **sizes)
    transformers.Dinov2Model(config).save_pretrained(dinov2)
    shape = {"height": 32, "width": 32}
    transformers.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size=shape).save_pretrained(dinov2)
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    words = [sys.executable, "-c", HUB_SCRIPT, str(tmp_path), *map(str, skimage_photos)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for library, field, value in (
        ("open_clip", "name", "hf-hub:acme/clip"),
        ("timm", "name", "hf-hub:acme/resnet"),
        ("timm", "weights_digest", state_digest(resnet)),
        ("transformers", "name", "acme/dinov2"),
        ("transformers", "weights", "0" * 40),
    ):
        assert contract_of(tmp_path / f"{library}.onnx")["source"][field] == value
    lines = done.stdout.splitlines()
    assert [line[:2] for line in lines] == ["4 "] * 4
    assert "ViT-B-32: weights are not on this machine" in lines[0]
    assert "hf download timm/vit_base_patch32_clip_224.openai" in lines[0]
    assert "copy models--acme--absent into $HF_HOME/hub" in lines[1]
    assert "hf download timm/resnet18" in lines[2]
    assert not (tmp_path / "absent.onnx").exists()
