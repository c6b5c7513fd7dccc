"""Which weights an export takes: names and tags, partial checkpoints, a hub's cache; never random ones unsaid."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters.contract import state_digest
from robustcheck_onnx.exporters.errors import ExportError
from support import PHOTOS, checkpoints, raised
from support.hub_cache import hub_repo
from support.lazy import timm, torch, torchvision, transformers
from support.user_modules import contract_of, exported, left_in, refused

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("my_vision")]


def test_random_weights_and_what_they_were_matched_to_are_said() -> None:
    for precision, matched in (("fp32", None), ("fp16", "CLIP ViT-B/32")):
        record = exported("timm", "test_resnet", precision=precision, random_weights=True, matched_to=matched)
        source = contract_of(record.path)["source"]
        assert (source["random_weights"], source["weights"], source.get("matched_to")) == (True, "", matched)
        model = open_model(record.path)
        assert model.contract is not None
        assert (model.file_changed, model.contract.source.matched_to or None) == (False, matched)


def test_names_and_tags() -> None:
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
        caught = raised(ExportError, "", exported, source, name, weights=weights)
        assert caught.message.startswith(f"{name}: {text}")
        assert (caught.exit_code, bool(caught.hint)) == (code, True)


@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet.r160_in1k")])
def test_partial_checkpoints(source: str, name: str) -> None:
    model = torchvision.models.resnet18() if source == "torchvision" else timm.create_model("test_resnet")
    for key, size in (("fc.weight", None), ("extra.weight", 2), ("fc.weight", 3)):
        state = model.state_dict() | {key: size and torch.zeros(size)}
        torch.save({key: value for key, value in state.items() if value is not None}, "w.pth")
        with refused(3, key):
            exported(source, name, weights="w.pth")
        assert left_in() == []


def test_weights_that_a_library_leaves_random_are_seen() -> None:
    """A load with strict=False, as some timm models are loaded, does not pass unseen."""
    from robustcheck_onnx.exporters import wrappers

    layer = torch.nn.Linear(2, 2)
    with wrappers.loading("tiny", "") as (_, loads):
        layer.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    said = r"tiny: 1 weights are missing \(bias\); they would stay random"
    raised(ExportError, said, wrappers.refuse_partial, "tiny", loads[0].missing_keys)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_checkpoints_that_are_refused() -> None:
    """torchvision published resnet50 with two preprocessings; a whole module needs unpickling of classes."""
    torch.save(torchvision.models.resnet50().state_dict(), "state.pth")
    torch.save(torch.nn.Linear(1, 1), "code.pth")
    said = "preprocessing of this checkpoint is not known"
    caught = raised(ExportError, said, exported, "torchvision", "resnet50", weights="state.pth")
    assert "--preprocessing FILE" in caught.hint
    said = r"code\.pth: checkpoint is unreadable"
    raised(ExportError, said, exported, "torch", "my_vision:encoder", weights="code.pth")


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


def test_hub_cache_offline(tmp_path: Path) -> None:
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
    words = [sys.executable, "-c", HUB_SCRIPT, str(tmp_path), *map(str, PHOTOS[:5])]
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
