"""Sidecars: the libraries' files give the libraries' pixels; a bad value names file, field and rule."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustcheck_onnx.checker.core.evidence import PreprocessingFacts
from robustcheck_onnx.checker.core.images.preprocess import at_size
from robustcheck_onnx.checker.core.model.sidecar import find_preprocessing
from robustcheck_onnx.checker.core.preprocessing import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.errors import UsageError
from support import PHOTOS, Fields, Patch, but, raised
from support.skimage_data import worst


def beside(name: str, content: Any, folder: Path = Path()) -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "model.onnx"


def find(
    model: str | Path, option: str | None = None, contract: Any = None, size: Any = (224, 224)
) -> PreprocessingFacts:
    return find_preprocessing(Path(model), option, contract, size)


def without(*fields: str) -> Fields:
    return {name: value for name, value in IMAGENET.model_dump().items() if name not in fields}


@pytest.mark.long
def test_open_clip_config_gives_open_clips_pixels() -> None:
    pytest.importorskip("open_clip", reason="needs the export extra")
    from open_clip.transform import PreprocessCfg, image_transform_v2

    for mode, size, interpolation in (
        ("shortest", (224, 224), "bicubic"),
        ("shortest", (224, 224), "bilinear"),
        ("shortest", (160, 256), "bicubic"),
        ("squash", (256, 256), "bicubic"),
        ("longest", (224, 224), "bicubic"),
        ("longest", (224, 192), "bilinear"),
    ):
        given: Fields = {"mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": interpolation}
        given |= {"resize_mode": mode, "size": size, "fill_color": 7}
        path = beside("open_clip_config.json", {"preprocess_cfg": given})
        transform = image_transform_v2(PreprocessCfg(**given), is_train=False)
        assert worst(find(path, size=size).preprocessing, transform) < 1e-3
        Path("visual").mkdir(exist_ok=True)  # as immich keeps it
        bare = beside("preprocess_cfg.json", given, Path("visual"))
        found = find(bare, size=size)
        assert (found.source, found.origin) == ("sidecar", "preprocess_cfg.json")
        Path("any.json").write_text(json.dumps(given), encoding="utf-8")
        asked = find("m.onnx", "any.json", size=size)
        assert asked.preprocessing == found.preprocessing
        assert worst(asked.preprocessing, transform) < 1e-3


def test_open_clip_config_says_where_each_field_is_from() -> None:
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": {"vision_cfg": {"image_size": 256}}, "preprocess_cfg": given}
    found = find(beside("open_clip_config.json", config), size=(256, 256))
    assert (found.source, found.preprocessing.size) == ("sidecar", (256, 256))
    assert ("resize_mode", "squash", "open_clip_config.json") in found.fields
    assert ("fill", "0, 0, 0", "open_clip default") in found.fields
    assert [field for field, _, _ in found.fields] == list(Preprocessing.model_fields)


@pytest.mark.long
def test_timm_config_gives_timms_pixels() -> None:
    pytest.importorskip("timm", reason="needs the export extra")
    from timm.data import create_transform, resolve_data_config

    values: Fields = {"interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    at_test = {"crop_mode": "border", "crop_pct": 0.95, "test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    rows: list[tuple[Fields, tuple[int, int]]] = [
        ({"crop_mode": "center", "crop_pct": 0.875}, (224, 224)),
        ({"crop_mode": "center", "crop_pct": 0.95, "interpolation": "bicubic"}, (224, 224)),
        ({"crop_mode": "center", "crop_pct": 0.9, "input_size": [3, 160, 224]}, (160, 224)),
        *(({"crop_mode": "squash", "crop_pct": share}, (224, 224)) for share in (1.0, 0.9)),
        *(({"crop_mode": "border", "crop_pct": 1.0}, (224, 224)), (at_test, (224, 224)), (at_test, (288, 288))),
    ]
    for more, size in rows:
        config = values | {"input_size": [3, 224, 224]} | more
        path = beside("config.json", {"architecture": "x", "pretrained_cfg": config})
        theirs = resolve_data_config(pretrained_cfg=config, use_test_size=size[0] == 288)
        transform = create_transform(**theirs, is_training=False)
        assert worst(find(path, size=size).preprocessing, transform) < 1e-3


@pytest.mark.long
def test_every_image_processor_of_transformers_gives_its_pixels_or_is_refused() -> None:
    """Those that resize by Pillow where there are two, as the checkpoints were trained with."""
    transformers: Any = pytest.importorskip("transformers", reason="needs the export extra")
    names = [name for name in dir(transformers) if name.endswith(("ImageProcessor", "ImageProcessorPil"))]
    rows: list[tuple[str, Fields]] = [(name, {}) for name in names if f"{name}Pil" not in names]
    rows += [
        ("CLIPImageProcessorPil", {"crop_size": {"height": 257, "width": 231}}),
        ("BitImageProcessorPil", {"size": {"shortest_edge": 256}}),  # DINOv2's
        ("ConvNextImageProcessorPil", {"size": {"shortest_edge": 224}}),
        ("ViTImageProcessorPil", {"do_normalize": False}),
        ("PoolFormerImageProcessorPil", {"crop_pct": 0.95}),
    ]
    wide, tall = (Image.open(PHOTOS[0]).convert("RGB").resize(size) for size in ((400, 300), (300, 400)))
    read, refused = set(), set()
    for name, arguments in rows:
        try:
            processor = getattr(transformers, name)(**arguments)
            shapes = {np.shape(processor(photo, return_tensors="np")["pixel_values"]) for photo in (wide, tall)}
        except Exception:  # noqa: BLE001 # several images, points, an engine for text: no encoder's processor
            continue
        if len(shapes) > 1 or len(next(iter(shapes))) != 4:
            continue  # no fixed size, or several images of one
        kind = name.removesuffix("Pil").removesuffix("ImageProcessor")
        processor.save_pretrained(".")
        try:
            ours = find("model.onnx", size=None).preprocessing
        except UsageError as fault:
            assert "its steps are not known here" in fault.message, name  # noqa: PT017
            refused.add(kind)
            continue

        def transform(photo: Image.Image, processor: Any = processor) -> Any:
            return np.asarray(processor(photo, return_tensors="np")["pixel_values"][0])

        # without Pillow the pixels are rounded once more: a grey level
        limit = 1e-3 if name.endswith("Pil") else 1.01
        assert worst(ours, transform) < limit, name
        read.add(kind)
    assert read >= {"Blip", "CLIP", "ConvNext", "DINOv3ViT", "EfficientNet", "Levit", "MobileViT", "PoolFormer", "ViT"}
    assert {"Perceiver", "DeepseekOcr2"} <= refused


def test_a_step_that_is_not_known_is_refused() -> None:
    unknown: Fields = {"do_flip_channel_order": True, "max_pixels": 9, "do_thumbnail": True, "keep_aspect_ratio": True}
    unknown |= {"ensure_multiple_of": 32, "crop_pct": 0.9}
    rows: list[tuple[Fields, str]] = [({k: v}, f"{k} is .*; this step is not supported") for k, v in unknown.items()]
    for kind, change, rule in (
        ("MobileViT", {"do_normalize": True}, "do_flip_channel_order is True; this step"),
        ("PoolFormer", {}, "size.shortest_edge is missing"),
        ("PoolFormer", {"size": 224, "crop_pct": None}, "crop_pct is None"),
        ("Perceiver", {}, "image_processor_type is PerceiverImageProcessor; its steps are not known"),
    ):
        rows.append(({"image_processor_type": f"{kind}ImageProcessor"} | change, rule))
    for step, rule in rows:
        raised(UsageError, rule, find, beside("preprocessor_config.json", HF | step))


def test_old_integer_sizes_mean_what_the_processor_says() -> None:
    old = {"crop_size": 224, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3}
    old |= {"image_mean": list(CLIP.mean), "image_std": list(CLIP.std), "size": 224}
    found = find(beside("preprocessor_config.json", old)).preprocessing
    assert found == but(CLIP, crop_rounding="floor")
    square = {**old, "feature_extractor_type": "ViTFeatureExtractor", "do_center_crop": False}
    found = find(beside("preprocessor_config.json", square)).preprocessing
    assert (found.resize_mode, found.crop) == ("squash", "none")


def test_own_sidecar_comes_first_and_takes_both_shapes() -> None:
    own = but(CLIP, color_order="BGR", rescale=1.0)
    beside("open_clip_config.json", {"preprocess_cfg": {"size": 224}})
    for content in (own.model_dump(), {"preprocessing": own.model_dump()}):
        found = find(beside("model.robustcheck.json", content))
        assert (found.preprocessing, found.source) == (own, "sidecar")


def test_precedence_option_contract_sidecar_assumed() -> None:
    longest = {"preprocess_cfg": {"size": 224, "resize_mode": "longest"}}
    model = beside("open_clip_config.json", longest)
    sidecar = "open_clip_config.json"
    found = [find(model, option, contract) for option in (None, "imagenet", sidecar) for contract in (None, CLIP)]
    assert [each.source for each in found] == ["sidecar", "contract", *["user"] * 4]
    assert [each.against_contract for each in found] == [False, False, False, True, False, True]
    assert [each.preprocessing for each in found[1:4]] == [CLIP, IMAGENET, IMAGENET]
    assert {each.preprocessing.resize_mode for each in (found[0], *found[4:])} == {"longest"}

    Path(sidecar).unlink()
    beside("config.json", {"model_type": "clip"})  # transformers' model configuration: no pixels in it
    assumed = find(model, size=(384, 384))
    assert (assumed.preprocessing, assumed.source) == (at_size(IMAGENET, (384, 384)), "assumed")
    assert ("size", "384, 384", "model input") in assumed.fields
    assert ("mean", "0.485, 0.456, 0.406", "assumed: ImageNet values") in assumed.fields


def test_presets_take_the_models_size() -> None:
    found = find("m.onnx", "clip", size=(336, 336))
    assert found.preprocessing == at_size(CLIP, (336, 336))
    assert ("resize_size", "336, 336", "--preprocess clip (scaled)") in found.fields
    assert find("m.onnx", "clip", size=None).preprocessing == CLIP


OPEN_CLIP = {"size": 224, "resize_mode": "shortest"}
HF = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OWN = CLIP.model_dump()
KINDS: dict[str, tuple[str, Callable[[Fields], Any]]] = {
    "open_clip": ("open_clip_config.json", lambda changed: {"preprocess_cfg": OPEN_CLIP | changed}),
    "timm": ("config.json", lambda changed: {"pretrained_cfg": {"input_size": [3, 224, 224]} | changed}),
    "hf": ("preprocessor_config.json", lambda changed: HF | changed),
    "own": ("model.robustcheck.json", lambda content: content),
}
ROWS = """open_clip => {"resize_mode": "fit"} => resize_mode is 'fit'; it must be one of shortest, longest, squash
open_clip => {"interpolation": "area"} => interpolation is 'area'; it must be one of bicubic, bilinear
open_clip => {"size": null} => size is missing; it must be an integer or [height, width]
open_clip => {"size": 0} => size.0 is 0; it must be greater than 0
open_clip => {"std": [1, 0, 1]} => std.1 is 0.0; it must be greater than 0
open_clip => {"mean": [1, "x", 1]} => mean is 'x'; it must be a finite number
open_clip => {"mean": [1, 2]} => mean is [1, 2]; it must be three numbers
open_clip => {"mode": "L"} => mode is 'L'; only RGB is supported
timm => {"input_size": [1, 28, 28]} => input_size is [1, 28, 28]; it must be [3, height, width]
timm => {"crop_pct": 1.5} => crop_pct is 1.5; it must be above 0 and at most 1
timm => {"crop_mode": "random"} => crop_mode is 'random'; it must be one of center, squash, border
timm => {"interpolation": "random"} => interpolation is 'random'; it must be 'nearest'
hf => {"resample": 9} => resample is 9; it must be 0 to 5
hf => {"image_mean": null} => image_mean is missing; it must be three numbers
hf => {"size": 224} => size is 224 and image_processor_type is missing; size must be
hf => {"size": {"shortest_edge": 224}} => do_center_crop is false and size is a shortest edge
hf => {"size": {"longest_edge": 224}} => size is {'longest_edge': 224}; it must be {height, width}
own => {"size": [224, 224]} => resize_mode is missing; it must be there
own => {"preprocessing": 3} => preprocessing is 3; it must be an object""".splitlines()
BAD: list[tuple[str, Any, str]] = [
    ("own", "[" * 100_000, "content is not readable JSON"),
    ("own", OWN | {"sized": 1}, "sized is 1; there is no such field"),
    ("own", OWN | {"mean": [float("nan")] * 3}, "mean.0 is nan; it must be a finite"),
    ("own", without("mean"), "mean is missing; it must be stated, [0, 0, 0] where nothing is done"),
    ("own", without("std"), "std is missing; it must be stated, [1, 1, 1] where nothing is done"),
    *((kind, json.loads(changed), said) for kind, changed, said in (row.split(" => ") for row in ROWS)),
]


def test_bad_values_name_file_field_and_rule() -> None:
    for kind, changed, message in BAD:
        name, content = KINDS[kind]
        path = beside(name, content(changed))
        for option in (None, name):
            caught = raised(UsageError, "", find, path, option, size=None)
            assert caught.message.startswith(f"{name}: {message}")
            assert caught.hint  # what to do instead
        Path(name).unlink()


def test_defaults_of_own_files_are_told_from_stated_values() -> None:
    found = find(beside("model.robustcheck.json", without("color_order", "fill")))
    assert found.preprocessing == IMAGENET
    assert ("color_order", "RGB", "robustcheck default") in found.fields
    assert ("fill", "0, 0, 0", "robustcheck default") in found.fields
    assert ("mean", "0.485, 0.456, 0.406", "model.robustcheck.json") in found.fields


def test_what_does_not_fit_the_model_or_is_not_there() -> None:
    model = "m.onnx"
    caught = raised(UsageError, "preprocessing is missing, and the input size is dynamic", find, model, size=None)
    presets = f"robustcheck {model} --preprocess clip (or imagenet, or a JSON file)"
    assert caught.hint == f"{presets}, or write m.robustcheck.json next to it"
    raised(UsageError, "value is clipp; it must be clip, imagenet or a JSON file that exists", find, model, "clipp")
    said = r"m\.onnx: contract: size is 224×224; the model's input is 336×224"
    raised(UsageError, said, find, model, None, CLIP, (336, 224))
    beside("open_clip_config.json", {"preprocess_cfg": OPEN_CLIP})
    said = r"open_clip_config\.json: size is 224×224; the model's input is 336×336"
    raised(UsageError, said, find, model, size=(336, 336))


SIGLIP = HF | {"image_processor_type": "SiglipImageProcessor"}


def repository(*names: str, folder: Path = Path()) -> None:
    """Files as in a repository on the hub; the models are empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    beside("preprocessor_config.json", SIGLIP, folder)


@pytest.mark.parametrize("other", ["b.onnx", "b.ONNX", "a_finetuned.onnx", "a_int8_finetuned.onnx", "onnx/model.onnx"])
def test_a_sidecar_beside_several_models_belongs_to_none_until_it_is_said(other: str) -> None:
    repository("a.onnx", other)
    model, sidecar = "a.onnx", "preprocessor_config.json"
    caught = raised(UsageError, rf"lies next to 2 models \(a\.onnx, {Path(other).name}, …\)", find, model)
    own = Path("a.robustcheck.json")
    assert caught.hint == f"robustcheck {model} --preprocess {sidecar}, or copy it to {own}"
    assert find(model, sidecar).source == "user"
    own.write_bytes(Path(sidecar).read_bytes())
    assert ("mean", "0.5, 0.5, 0.5", "a.robustcheck.json") in find(model).fields
    own.unlink()
    Path(other).unlink()
    assert find(model).source == "sidecar"


FORMS = ("fp16", "quantized", "int8", "uint8", "q4", "q4f16", "bnb4", "O4", "qint8_avx512_vnni", "fp16_optimized")


@pytest.mark.parametrize("names", [  # the first one's is looked for
    "model_q4f16 model " + " ".join(f"model_{form}" for form in FORMS),
    "vision_model vision_model_int8 text_model text_model_fp16",
    "vision_model model_fp16 text_model",
    "model_fp16 vision_model text_model_uint8",
    "encoder_model decoder_model_merged_int8",
    "vit vit.fp16 vit-int8",
])  # fmt: skip
def test_forms_and_parts_of_one_checkpoint_share_its_sidecar(names: str) -> None:
    paths = [f"onnx/{name}.onnx" for name in names.split()]
    repository(*paths)
    found = find(paths[0])
    assert (found.source, found.preprocessing.mean) == ("sidecar", (0.5, 0.5, 0.5))
    assert ("mean", "0.5, 0.5, 0.5", "../preprocessor_config.json") in found.fields


@pytest.mark.parametrize(("model", "other"), [
    ("onnx/model.onnx", "onnx/vision_model.onnx"),  # of one checkpoint?
    ("onnx/text_model.onnx", "onnx/vision_model.onnx"),
    ("onnx/model.onnx", "resnet.onnx"),
    ("onnx/model.onnx", "onnx/models.onnx"),
])  # fmt: skip
def test_a_repository_with_several_models_says_whose_sidecar_it_is(model: str, other: str) -> None:
    repository(model, other)
    raised(UsageError, rf"^preprocessor_config\.json: .*, {Path(other).name}, …", find, model)


def test_the_nearest_sidecar_counts(monkeypatch: Patch) -> None:
    repository("onnx/model.onnx")
    model = Path("onnx/model.onnx").absolute()
    beside("onnx/config.json", {"model_type": "siglip"})  # says nothing about pixels
    assert find(model).fields[0][2] == "../preprocessor_config.json"
    monkeypatch.chdir("onnx")
    assert find(Path("model.onnx")).source == "sidecar"
    near = {**SIGLIP, "image_mean": [0.1, 0.1, 0.1]}
    beside("preprocessor_config.json", near)
    assert find(model).preprocessing.mean == (0.1, 0.1, 0.1)
    # only the hub's folder has sidecars above it
    repository("models/model.onnx", folder=Path("other"))
    assert find("other/models/model.onnx").source == "assumed"
