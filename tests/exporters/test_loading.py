"""What is loaded before anything is exported: weights, never random ones unsaid; preprocessing, heads, activations."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.exporters import CallError, ExportError, contract, run
from robustcheck_onnx.exporters.digests import file_digest, state_digest
from robustcheck_onnx.exporters.preprocessing import checked_preprocessing, shared_preprocessing
from support import PHOTOS, Patch, raised, torch_models
from support.stores import hub_repo
from support.torch_models import (
    exported,
    from_open_clip,
    from_timm,
    from_torchvision,
    from_transformers,
    loading,
    open_clip,
    refused,
    timm,
    torch,
    torchvision,
    transformers,
    wrappers,
)

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("my_vision")]

NAME = "robustcheck-test-vit"
CONFIG = {"embed_dim": 24, "vision_cfg": torch_models.VISION, "text_cfg": torch_models.TEXT}
CLIP_32 = {"size": [32, 32], "resize_mode": "shortest", "resize_size": [32, 32], "interpolation": "bicubic"}


def loaded(source: str, name: str, **wanted: Any) -> contract.Loaded:
    return run.load(source, contract.Wanted(name, **wanted))


def tiny_dinov2() -> Any:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32}
    return transformers.Dinov2Model(transformers.Dinov2Config(patch_size=16, **sizes))


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: Patch) -> tuple[Path, Any]:
    """A model that open_clip knows by name, and its checkpoint file."""
    for name, kind in (("_MODEL_CONFIG_PATHS", list), ("_MODEL_CONFIGS", dict)):
        monkeypatch.setattr(open_clip.factory, name, kind(getattr(open_clip.factory, name)))
    (tmp_path / f"{NAME}.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(tmp_path / f"{NAME}.json")
    torch.manual_seed(3)
    model = open_clip.model.CLIP(**CONFIG).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")  # as open_clip's training saves it
    return tmp_path / "epoch_1.pt", model


def test_open_clip_checkpoint_file(checkpoint: tuple[Path, Any]) -> None:
    path, model = checkpoint
    fields = checked_preprocessing(CLIP_32, "x")
    found = loaded("open_clip", NAME, weights=str(path), preprocessing=fields)
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found.module(image)[0], model.encode_image(image))
    source = found.source
    assert (source.weights, source.random_weights) == ("epoch_1.pt", False)
    assert source.weights_digest == file_digest(path)
    with refused(2, "the library publishes none for this name"):
        loaded("open_clip", NAME, weights=str(path))  # a file does not say its preprocessing
    state = model.state_dict()
    del state["visual.proj"]
    torch.save(state, path)
    with refused(3, r"Missing key\(s\) in state_dict: \"visual\.proj\""):
        loaded("open_clip", NAME, weights=str(path), preprocessing=fields)


def test_open_clip_tag_decides_the_activation(checkpoint: tuple[Path, Any], monkeypatch: Patch) -> None:
    """A tag trained with QuickGELU under a plain name gets it: open_clip would only warn and go on."""
    for quick in (True, False):
        tags = {"tagged": {"file": str(checkpoint[0]), "quick_gelu": quick}}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, tags)
        model = loaded("open_clip", NAME, weights="tagged")
        kinds = {type(m).__name__ for m in model.module.modules()}
        assert ("QuickGELU" in kinds, "GELU" in kinds, model.source.weights) == (quick, not quick, "tagged")


def test_published_preprocessing_of_open_clip() -> None:
    """A SigLIP file gets SigLIP's mean and squash, not CLIP's; ViT-L-14's tags differ, so a file says nothing."""
    shared = shared_preprocessing(from_open_clip.published_open_clip("ViT-B-16-SigLIP"), "ViT-B-16-SigLIP")
    fields = from_open_clip.open_clip_contract({**shared, "size": 224}, "ViT-B-16-SigLIP")
    assert (fields["mean"], fields["resize_mode"], fields["crop"]) == ([0.5, 0.5, 0.5], "squash", "none")
    said, found = "the published weights .* differ in theirs", from_open_clip.published_open_clip("ViT-L-14")
    raised(ExportError, said, shared_preprocessing, found, "ViT-L-14")


def test_every_published_preprocessing_can_be_written() -> None:
    pairs, names = open_clip.list_pretrained(), timm.list_models(pretrained=True)
    assert (len(pairs) > 150, len(names) > 1000) == (True, True)
    for model, tag in pairs:
        from_open_clip.open_clip_contract(
            {**from_open_clip.published_open_clip(model)[tag], "size": 224}, f"{model} {tag}"
        )
    for name in names:
        cfg = timm.models.get_pretrained_cfg(name).to_dict()
        if cfg["input_size"][0] == 3:
            from_timm.timm_contract(timm.data.resolve_data_config(pretrained_cfg=cfg), name)
    for name in torchvision.models.list_models(module=torchvision.models):
        for entry in torchvision.models.get_model_weights(name):
            assert from_torchvision.torchvision_contract(entry.transforms(), name)["resize_mode"] == "shortest"


def test_head_is_found_by_following_the_forward_pass() -> None:
    heads = {"alexnet": "classifier.6", "densenet121": "classifier", "googlenet": "fc"}
    for name, head in (heads | {"mobilenet_v3_small": "classifier.3", "squeezenet1_1": "classifier.1"}).items():
        model = torchvision.models.get_model(name, **from_torchvision.AS_PUBLISHED.get(name, {}))
        assert wrappers.find_head(model, (96, 96)) == head


def test_googlenet_file_is_loaded_as_torchvision_loads_it() -> None:
    """With its own weights torchvision sets transform_input; a bare file must get the same."""
    model = loaded("torchvision", "googlenet", random_weights=True).module.model
    assert model.transform_input is True


def test_two_heads_are_not_guessed_at() -> None:
    """DeiT's way: the mean of two heads."""
    name = "deit_tiny_distilled_patch16_224"
    said = "it is not clear which tensor the logits come from"
    raised(ExportError, said, wrappers.find_head, timm.create_model(name), (224, 224))
    raised(ExportError, "classifier is 2 heads; it is not clear which one", loaded, "timm", name, random_weights=True)


def test_a_clip_projection_is_no_classifier() -> None:
    """timm's CLIP towers keep the projection where classifiers keep their head."""
    for name, rules in {
        "vit_base_patch32_clip_224.openai": {"representation": "encoder_output", "pooled": "pooled"},
        "vit_base_patch32_clip_224.laion2b_ft_in12k_in1k": {"representation": "head_input", "logits": "logits"},
        "resnet18.a1_in1k": {"representation": "head_input", "logits": "logits"},
        "vit_small_patch14_dinov2.lvd142m": {"representation": "encoder_output"},
    }.items():
        outputs = loaded("timm", name, random_weights=True).outputs
        assert {output.name: output.rule for output in outputs} == rules


def test_image_processors_the_contract_cannot_say() -> None:
    for field, value, text in (
        ("do_resize", False, "do_resize is off"),
        ("do_center_crop", False, "do_center_crop is off; it must be on, or image sizes would vary"),
        ("size", {"shortest_edge": 32, "longest_edge": 64}, "size is"),
    ):
        with refused(2, text):
            from_transformers.transformers_contract(transformers.CLIPImageProcessorPil(**{field: value}), "org/repo")


def test_transformers_missing_weights_and_other_types(tmp_path: Path) -> None:
    model = tiny_dinov2()
    state = model.state_dict()
    del state["layernorm.weight"]
    model.save_pretrained(tmp_path / "dinov2", state_dict=state)
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    for name, code, said in (
        ("dinov2", 3, r"1 weights are missing \(layernorm\.weight\)"),
        ("bert", 2, "model type is bert; it must be one of clip"),
    ):
        with refused(code, said):
            loaded("transformers", str(tmp_path / name), preprocessing=CLIP_32)


@pytest.mark.parametrize("form", ["zip", "pickle", "safetensors"])
def test_damaged_checkpoints_are_refused_or_a_state_dict(tmp_path: Path, form: str) -> None:
    from safetensors.torch import save_file

    state = {"stem.weight": torch.arange(16.0).reshape(4, 4), "stem.bias": torch.arange(3)}
    path = tmp_path / ("model.safetensors" if form == "safetensors" else "model.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "zip")
    whole, draw, refusals = path.read_bytes(), random.Random(0), list[ExportError]()
    for attempt in range(200):
        content = bytearray(whole[: draw.randrange(8, len(whole))] if attempt % 4 == 0 else whole)
        for _ in range(attempt % 4):
            content[draw.randrange(min(len(content), 400))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            assert all(isinstance(value, torch.Tensor) for value in loading.read_checkpoint(path).values())
        except ExportError as error:
            refusals.append(error)
    assert len(refusals) > 50
    for refusal in refusals:
        assert re.fullmatch(rf"{path}: checkpoint is .*", refusal.message)
        assert refusal.hint.startswith("save it again")


def part(n_parameters: int, **parts: Any) -> Any:
    return SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: n_parameters)], **parts)


def test_each_name_is_counted_once_and_each_answer_is_of_its_name(monkeypatch: Patch) -> None:
    counted = []

    def check(_: str, tag: str | None) -> None:
        if tag == "wrong":
            raise CallError("no wrong", "--weights right")

    def shell(name: str) -> Any:
        counted.append(name)
        return {"rn50": part(38, visual=part(25)), "vit": part(86)}[name]

    def library(source: str, verb: str) -> Any:
        if source == "torchvision":
            raise ImportError(name="torchvision")
        return {"check": check, "shell": shell}[verb]

    monkeypatch.setattr(run, "_library", library)
    rows = (
        ("open_clip", "rn50", "openai", 38, 25, "", "", ""),
        ("open_clip", "rn50", "wrong", None, None, "no wrong; --weights right", "", ""),
        ("timm", "vit", None, 86, 86, "", "", ""),
        ("open_clip", "rn50", "yfcc15m", 38, 25, "", "", ""),
        ("torchvision", "vit", None, None, None, "", "", "torchvision"),
        ("timm", "other", None, None, None, "", "KeyError: 'other'", ""),
        ("timm", "never", "wrong", None, None, "no wrong; --weights right", "", ""),
        ("torch", "my:own", None, None, None, "", "the size of torch my:own is not known before it is loaded", ""),
    )
    answers = run.sizes([row[:3] for row in rows])
    fields = ("parameters", "vision_parameters", "unknown", "fault", "missing")
    assert [tuple(each[field] for field in fields) for each in answers] == [row[3:] for row in rows]
    assert sorted(counted) == ["other", "rn50", "vit"]


def test_random_weights_and_what_they_were_matched_to_are_said() -> None:
    for precision, matched in (("fp32", None), ("fp16", "CLIP ViT-B/32")):
        record = exported("timm", "test_resnet", precision=precision, random_weights=True, matched_to=matched)
        source = torch_models.contract_of(record.path)["source"]
        assert (source["random_weights"], source["weights"], source.get("matched_to")) == (True, "", matched)
        model = open_model(record.path)
        assert model.contract is not None
        assert (model.file_changed, model.contract.source.matched_to or None) == (False, matched)


@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "test_resnet.r160_in1k")])
def test_partial_checkpoints(source: str, name: str) -> None:
    model = torchvision.models.resnet18() if source == "torchvision" else timm.create_model("test_resnet")
    for key, size in (("fc.weight", None), ("extra.weight", 2), ("fc.weight", 3)):
        state = model.state_dict() | {key: size and torch.zeros(size)}
        torch.save({key: value for key, value in state.items() if value is not None}, "w.pth")
        with refused(3, key):
            exported(source, name, weights="w.pth")
        assert torch_models.left_in() == []


def test_weights_that_a_library_leaves_random_are_seen() -> None:
    """A load with strict=False, as some timm models are loaded, does not pass unseen."""
    layer = torch.nn.Linear(2, 2)
    with loading.loading("tiny", "") as (_, loads):
        layer.load_state_dict({"weight": torch.zeros(2, 2)}, strict=False)
    said = r"tiny: 1 weights are missing \(bias\); they would stay random"
    raised(ExportError, said, loading.refuse_partial, "tiny", loads[0].missing_keys)
    assert torch.nn.Module.load_state_dict.__name__ == "load_state_dict"


def test_checkpoints_that_are_refused() -> None:
    """torchvision published resnet50 with two preprocessings."""
    torch.save(torchvision.models.resnet50().state_dict(), "state.pth")
    said = "preprocessing of this checkpoint is not known"
    caught = raised(ExportError, said, exported, "torchvision", "resnet50", weights="state.pth")
    assert "--preprocess FILE" in caught.hint


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
from robustcheck_onnx.exporters import ExportError
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
    torch_models.open_clip_folder(clip)
    resnet = timm.create_model("test_resnet")
    timm.models.save_for_hf(resnet, timms)
    tiny_dinov2().save_pretrained(dinov2)
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
        assert torch_models.contract_of(tmp_path / f"{library}.onnx")["source"][field] == value
    lines = done.stdout.splitlines()
    assert [line[:2] for line in lines] == ["4 "] * 4
    assert "ViT-B-32: weights are not on this machine" in lines[0]
    assert "hf download timm/vit_base_patch32_clip_224.openai" in lines[0]
    assert "copy models--acme--absent into $HF_HOME/hub" in lines[1]
    assert "hf download timm/resnet18" in lines[2]
    assert not (tmp_path / "absent.onnx").exists()
