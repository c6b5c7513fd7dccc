"""Each architecture family's smallest member, from a local checkpoint in the library's own format to ONNX."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from PIL import Image

from robustcheck_onnx.checker.images.preprocess import apply
from robustcheck_onnx.checker.inspection import inspect_model
from robustcheck_onnx.checker.model.contract import parse_contract
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.exporters.contract import METADATA_KEY
from robustcheck_onnx.exporters.run import run
from robustcheck_onnx.exporters.write import ExportRecord
from robustcheck_onnx.thresholds import profile
from support.lazy import torch

pytestmark = pytest.mark.long

# float32 kernels add in another order; measured on these models: below 1e-5 of a row's RMS
RELATIVE = 1e-4


@dataclass(frozen=True)
class Case:
    """One exported family: the file, and the library's own model and transform as the truth."""

    record: ExportRecord
    truth: Callable[[Any], dict[str, Any]]
    transform: Callable[[Image.Image], Any]
    meanings: dict[str, str]
    library: str


def _init(module: Any, seed: int = 7) -> Any:
    """Give every weight a value that no constructor would, so that a weight that was not loaded shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if "running_var" in name:
                tensor.copy_(1 + 0.2 * noise.abs())
            elif tensor.ndim < 2:
                is_scale = name.endswith("weight") or "gamma" in name or "lambda" in name
                tensor.copy_((1.0 if is_scale else 0.0) + 0.1 * noise)
            else:
                tensor.copy_(noise / max(1, tensor[0].numel()) ** 0.5)
    return module.eval()


OPEN_CLIP_TEXT = {"context_length": 8, "vocab_size": 16, "width": 16, "heads": 2, "layers": 1}


def _open_clip_folder(folder: Path, vision: dict[str, Any], **preprocess: Any) -> tuple[str, Any]:
    """Write a folder as open_clip's push_to_hub does: open_clip_config.json, open_clip_model.safetensors."""
    import open_clip
    from safetensors.torch import save_file

    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": OPEN_CLIP_TEXT}
    folder.mkdir()
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    cfg = {"mean": mean, "std": std, "interpolation": "bicubic", "resize_mode": "shortest", **preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": cfg}))
    model = _init(open_clip.model.CLIP(**config))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}", model


def _open_clip_case(tmp: Path, photos: list[Path], vision: dict[str, Any], meaning: str, **pp: Any) -> Case:
    import open_clip

    name, model = _open_clip_folder(tmp / "open_clip", vision, **pp)
    record = run("open_clip", name, tmp / "model.onnx", photos=photos)
    _, transform = open_clip.create_model_from_pretrained(name)
    return Case(
        record,
        lambda x: {"representation": model.encode_image(x)},
        transform,
        {"representation": "projected image embedding", **({"pooled": meaning} if meaning else {})},
        "open_clip",
    )


def clip_vit(tmp: Path, photos: list[Path]) -> Case:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16}
    return _open_clip_case(tmp, photos, vision, "class token after the last norm, before the projection")


def clip_resnet(tmp: Path, photos: list[Path]) -> Case:
    vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
    meaning = "attention pool of the last map, before the projection"
    return _open_clip_case(tmp, photos, vision, meaning, resize_mode="longest", fill_color=9)


def siglip(tmp: Path, photos: list[Path]) -> Case:
    vision = {
        "image_size": 160,
        "timm_model_name": "test_vit3",  # timm's own test model with SigLIP's attention pool
        "timm_pool": "map",
        "timm_proj": "none",
    }
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    return _open_clip_case(tmp, photos, vision, "", **half)


def _timm_case(tmp: Path, photos: list[Path], name: str, head: str, **truth_options: Any) -> Case:
    import timm

    model = _init(timm.create_model(name, **truth_options))
    torch.save(model.state_dict(), tmp / "weights.pth")
    record = run("timm", name, tmp / "model.onnx", weights=str(tmp / "weights.pth"), photos=photos)

    def truth(x: Any) -> dict[str, Any]:
        before = model.forward_head(model.forward_features(x), pre_logits=True)
        return {"representation": before, "logits": model(x)}

    return Case(
        record,
        truth,
        timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False),
        {"representation": f"input of {head}, the last linear layer", "logits": "class logits"},
        "timm",
    )


def timm_vit(tmp: Path, photos: list[Path]) -> Case:
    return _timm_case(tmp, photos, "test_vit.r160_in1k", "head")


def timm_convnext(tmp: Path, photos: list[Path]) -> Case:
    return _timm_case(tmp, photos, "test_convnext.r160_in1k", "head.fc")


def timm_resnet(tmp: Path, photos: list[Path]) -> Case:
    return _timm_case(tmp, photos, "test_resnet.r160_in1k", "fc")


def torchvision_models() -> Any:
    """Where torchvision's builders stand by name."""
    from torchvision.models import _api

    return _api


def _torchvision_case(tmp: Path, photos: list[Path], name: str, head: str) -> Case:
    import torchvision

    model = _init(torchvision.models.get_model(name))
    torch.save(model.state_dict(), tmp / "weights.pth")
    record = run("torchvision", name, tmp / "model.onnx", weights=str(tmp / "weights.pth"), photos=photos)

    def truth(x: Any) -> dict[str, Any]:
        layer = model.get_submodule(head)
        seen: list[Any] = []
        handle = layer.register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
        logits = model(x)
        handle.remove()
        return {"representation": seen[0], "logits": logits}

    return Case(
        record,
        truth,
        torchvision.models.get_model_weights(name).DEFAULT.transforms(),
        {"representation": f"input of {head}, the last linear layer", "logits": "class logits"},
        "torchvision",
    )


def torchvision_resnet(tmp: Path, photos: list[Path]) -> Case:
    return _torchvision_case(tmp, photos, "resnet18", "fc")


def torchvision_swin(tmp: Path, photos: list[Path]) -> Case:
    """Swin-T with a third of its blocks and a quarter of its width: the same operators, in less time."""
    from torchvision.models import Swin_T_Weights, swin_transformer

    def small(*, weights: Swin_T_Weights | None = None, progress: bool = True, **more: Any) -> Any:
        del weights, progress
        shape = {"patch_size": [4, 4], "window_size": [7, 7], "embed_dim": 24}
        return swin_transformer.SwinTransformer(**shape, depths=[2, 2], num_heads=[2, 4], **more)

    small.__module__, small.__annotations__["weights"] = swin_transformer.__name__, Swin_T_Weights | None
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(torchvision_models().BUILTIN_MODELS, "swin_t", small)
        return _torchvision_case(tmp, photos, "swin_t", "head")


TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def transformers_clip(tmp: Path, photos: list[Path]) -> Case:
    import transformers

    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config=TINY, text_config={**text, "vocab_size": 16}, projection_dim=24)
    model = _init(transformers.CLIPModel(config))  # the full model, as CLIP is published
    model.save_pretrained(tmp / "clip")
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp / "clip")
    record = run("transformers", str(tmp / "clip"), tmp / "model.onnx", photos=photos)

    def truth(x: Any) -> dict[str, Any]:
        pooled = model.vision_model(pixel_values=x).pooler_output
        return {"representation": model.visual_projection(pooled), "pooled": pooled}

    return Case(
        record,
        truth,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        {
            "representation": "projected image embedding",
            "pooled": "class token after the last norm, before the projection",
        },
        "transformers",
    )


def transformers_siglip(tmp: Path, photos: list[Path]) -> Case:
    import transformers

    model = _init(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TINY)))
    model.save_pretrained(tmp / "siglip")
    processor = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp / "siglip")
    record = run("transformers", str(tmp / "siglip"), tmp / "model.onnx", photos=photos)
    return Case(
        record,
        lambda x: {"representation": model(pixel_values=x).pooler_output},
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        {"representation": "attention pool of the tokens: the image embedding"},
        "transformers",
    )


def transformers_dinov2(tmp: Path, photos: list[Path]) -> Case:
    import transformers

    model = _init(transformers.Dinov2Model(transformers.Dinov2Config(**TINY)))
    model.save_pretrained(tmp / "dinov2")
    processor = transformers.BitImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp / "dinov2")
    record = run("transformers", str(tmp / "dinov2"), tmp / "model.onnx", photos=photos)
    return Case(
        record,
        lambda x: {"representation": model(pixel_values=x).last_hidden_state[:, 0]},
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        {"representation": "class token after the last norm"},
        "transformers",
    )


def transformers_vit_classifier(tmp: Path, photos: list[Path]) -> Case:
    import transformers

    config = transformers.ViTConfig(**TINY, num_labels=6)
    model = _init(transformers.ViTForImageClassification(config))
    model.save_pretrained(tmp / "vit")
    processor = transformers.ViTImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp / "vit")
    record = run("transformers", str(tmp / "vit"), tmp / "model.onnx", photos=photos)

    def truth(x: Any) -> dict[str, Any]:
        tokens = model.vit(pixel_values=x).last_hidden_state
        return {"representation": tokens[:, 0], "logits": model(pixel_values=x).logits}

    return Case(
        record,
        truth,
        lambda image: processor(image, return_tensors="pt")["pixel_values"][0],
        {"representation": "input of classifier, the last linear layer", "logits": "class logits"},
        "transformers",
    )


SKIMAGE_PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "motorcycle_left.png",
    "retina.jpg",
)

ENDS = {
    clip_vit: "linear",
    clip_resnet: "linear",
    siglip: "other:Add",
    timm_vit: "normalisation",
    timm_convnext: "normalisation",
    timm_resnet: "activation:Relu",
    torchvision_resnet: "activation:Relu",
    torchvision_swin: "normalisation",
    transformers_clip: "linear",
    transformers_siglip: "other:Add",
    transformers_dinov2: "normalisation",
    transformers_vit_classifier: "normalisation",
}
"""CLIP and SigLIP end as the profile's positives do; norms and activations do not pass for them."""


@pytest.fixture(scope="module")
def photos() -> list[Path]:
    skimage = pytest.importorskip("skimage", reason="real photos come from scikit-image")
    return [Path(skimage.__file__).parent / "data" / name for name in SKIMAGE_PHOTOS]


@pytest.fixture(scope="module", params=ENDS, ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, photos: list[Path]) -> Case:
    made: Case = request.param(tmp_path_factory.mktemp(request.param.__name__), photos[:5])
    return made


def _rows(session: ort.InferenceSession, images: Any) -> dict[str, NDArray[np.float32]]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images.numpy()}), strict=True))


def _relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((np.abs(a - b).max(axis=1) / np.sqrt((a * a).mean(axis=1))).max())


def test_onnx_runtime_agrees_with_the_library(case: Case, photos: list[Path]) -> None:
    session = ort.InferenceSession(str(case.record.path), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[0]) == ("image", "tensor(float)", "batch")
    assert [o.name for o in session.get_outputs()] == list(case.meanings)
    widths = {o.name: o.shape for o in session.get_outputs()}
    assert widths == {name: ["batch", width] for name, width in case.record.outputs.items()}

    batch = torch.stack([case.transform(Image.open(p).convert("RGB")) for p in photos[:6]])
    for size in (1, 2, 5, 3):  # 3 was not tried while exporting
        with torch.no_grad():
            truth = {name: rows.numpy().astype(np.float64) for name, rows in case.truth(batch[:size]).items()}
        got = _rows(session, batch[:size])
        for name, rows in truth.items():
            assert rows.shape == got[name].shape
            assert rows.std(axis=1).min() > 0.01  # a constant would agree with anything
            assert _relative(rows, got[name].astype(np.float64)) < RELATIVE

    together = _rows(session, batch)["representation"].astype(np.float64)
    alone = np.concatenate([_rows(session, batch[i : i + 1])["representation"] for i in range(len(batch))])
    assert _relative(together, alone.astype(np.float64)) < RELATIVE


def test_what_the_file_says(case: Case, photos: list[Path], request: pytest.FixtureRequest) -> None:
    content = case.record.path.read_bytes()
    for trace in (str(Path.cwd()), "site-packages", str(case.record.path.parent)):
        assert trace.encode() not in content  # no path of this machine
    model = onnx.load(case.record.path)
    onnx.checker.check_model(model, full_check=True)
    properties = {p.key: p.value for p in model.metadata_props}
    contract = json.loads(properties[METADATA_KEY])
    assert {n: t["meaning"] for n, t in contract["tensors"].items()} == case.meanings
    assert contract["source"]["library"] == case.library
    assert contract["source"]["random_weights"] is False
    assert contract["source"]["synthetic"] == ""
    assert contract["source"]["weights_digest"] == case.record.source.weights_digest
    assert contract["versions"]["torch"].partition("+")[0] == torch.version.__version__.partition("+")[0]
    assert contract["precision"] == "fp32"
    parity = contract["parity"]
    assert (parity["batches"], parity["photos"]) == ([1, 2, 5], 5)
    assert parity["max_rel"] < RELATIVE
    assert parity["min_cosine"] > 0.999999
    assert parity["max_abs"] == case.record.parity.max_abs

    read = parse_contract(properties, "model.onnx")
    assert read is not None
    assert read.tensors["representation"].meaning == case.meanings["representation"]
    ends = {make.__name__: end for make, end in ENDS.items()}
    assert str(open_model(case.record.path).representation.ends_in) == ends[request.node.callspec.id]
    # no first layer is taken for a normalisation, and the contract's own is a usual one
    found = inspect_model(case.record.path, profile.load())
    assert found.model.scaling is None
    assert not {reason.id for reason in found.can_pass.reasons} & {"normalised_twice", "unusual_pixels"}
    # one grey level of 255 at most, on six real photos, through the contract in the file
    for path in photos[:6]:
        image = Image.open(path).convert("RGB")
        ours = apply(read.preprocessing, image).transpose(2, 0, 1)
        theirs = case.transform(image).numpy()
        std = np.asarray(read.preprocessing.std)[:, None, None]
        assert np.abs((ours - theirs) * std).max() / read.preprocessing.rescale <= 1.0 + 1e-3
