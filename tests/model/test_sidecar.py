"""Sidecars: the libraries' files give the libraries' pixels; a bad value names file, field and rule."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.images.preprocess import at_size
from robustcheck_onnx.checker.model.sidecar import find_preprocessing
from support.skimage_data import worst


def beside(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder / "model.onnx"


@pytest.mark.long
def test_open_clip_config_gives_open_clips_pixels(tmp_path: Path) -> None:
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
        given: dict[str, Any] = {"mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": interpolation}
        given |= {"resize_mode": mode, "size": size, "fill_color": 7}
        path = beside(tmp_path, "open_clip_config.json", {"preprocess_cfg": given})
        transform = image_transform_v2(PreprocessCfg(**given), is_train=False)
        assert worst(find_preprocessing(path, None, None, size).preprocessing, transform) < 1e-3


def test_open_clip_config_says_where_each_field_is_from(tmp_path: Path) -> None:
    given = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    config = {"model_cfg": {"vision_cfg": {"image_size": 256}}, "preprocess_cfg": given}
    found = find_preprocessing(beside(tmp_path, "open_clip_config.json", config), None, None, (256, 256))
    assert (found.source, found.preprocessing.size) == ("sidecar", (256, 256))
    assert ("resize_mode", "squash", "open_clip_config.json") in found.fields
    assert ("fill", "0, 0, 0", "open_clip default") in found.fields
    assert [field for field, _, _ in found.fields] == list(Preprocessing.model_fields)


@pytest.mark.long
def test_timm_config_gives_timms_pixels(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="needs the export extra")
    from timm.data import create_transform, resolve_data_config

    values: dict[str, Any] = {"interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2]}
    test_size: dict[str, Any] = {"test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    more: dict[str, Any]
    for mode, share, size, more in (
        ("center", 0.875, (224, 224), {}),
        ("center", 0.95, (224, 224), {"interpolation": "bicubic"}),
        ("center", 0.9, (160, 224), {}),
        ("squash", 1.0, (224, 224), {}),
        ("squash", 0.9, (224, 224), {}),
        ("border", 1.0, (224, 224), {}),
        ("border", 0.95, (224, 224), test_size),
        ("border", 0.95, (288, 288), test_size),
    ):
        config = values | {"input_size": [3, *(size if size[0] < 288 else (224, 224))], "crop_mode": mode} | more
        config["crop_pct"] = share
        path = beside(tmp_path, "config.json", {"architecture": "x", "pretrained_cfg": config})
        theirs = resolve_data_config(pretrained_cfg=config, use_test_size=size[0] == 288)
        transform = create_transform(**theirs, is_training=False)
        assert worst(find_preprocessing(path, None, None, size).preprocessing, transform) < 1e-3


@pytest.mark.long
def test_preprocessor_config_gives_transformers_pixels(tmp_path: Path) -> None:
    """Those that resize by Pillow, as the checkpoints were trained with."""
    pytest.importorskip("transformers", reason="needs the export extra")
    for module, name, arguments in (
        ("clip", "CLIPImageProcessorPil", {}),
        ("clip", "CLIPImageProcessorPil", {"crop_size": {"height": 257, "width": 231}}),
        ("bit", "BitImageProcessorPil", {"size": {"shortest_edge": 256}}),  # DINOv2's
        ("siglip", "SiglipImageProcessorPil", {}),
        ("vit", "ViTImageProcessorPil", {"size": {"height": 224, "width": 224}}),
        ("vit", "ViTImageProcessorPil", {"do_normalize": False}),
    ):
        library: Any = importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}")
        processor = getattr(library, name)(**arguments)
        processor.save_pretrained(tmp_path)
        ours = find_preprocessing(tmp_path / "model.onnx", None, None, None).preprocessing

        def transform(photo: Image.Image, processor: Any = processor) -> Any:
            return processor(photo, return_tensors="np")["pixel_values"][0]

        assert worst(ours, transform) < 1e-3, name


def test_old_integer_sizes_mean_what_the_processor_says(tmp_path: Path) -> None:
    old = {
        "crop_size": 224,
        "do_center_crop": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(CLIP.mean),
        "image_std": list(CLIP.std),
        "resample": 3,
        "size": 224,
    }
    found = find_preprocessing(beside(tmp_path, "preprocessor_config.json", old), None, None, (224, 224))
    assert found.preprocessing == CLIP.model_copy(update={"crop_rounding": "floor"})
    square = {**old, "feature_extractor_type": "ViTFeatureExtractor", "do_center_crop": False}
    found = find_preprocessing(beside(tmp_path, "preprocessor_config.json", square), None, None, (224, 224))
    assert (found.preprocessing.resize_mode, found.preprocessing.crop) == ("squash", "none")


def test_own_sidecar_comes_first_and_takes_both_shapes(tmp_path: Path) -> None:
    own = CLIP.model_copy(update={"color_order": "BGR", "rescale": 1.0})
    beside(tmp_path, "open_clip_config.json", {"preprocess_cfg": {"size": 224}})
    for content in (own.model_dump(), {"preprocessing": own.model_dump()}):
        found = find_preprocessing(beside(tmp_path, "model.robustcheck.json", content), None, None, (224, 224))
        assert (found.preprocessing, found.source) == (own, "sidecar")


def test_precedence_option_contract_sidecar_assumed(tmp_path: Path) -> None:
    model = beside(tmp_path, "open_clip_config.json", {"preprocess_cfg": {"size": 224, "resize_mode": "longest"}})
    over_contract = find_preprocessing(model, "imagenet", CLIP, (224, 224))
    assert (over_contract.preprocessing, over_contract.source) == (IMAGENET, "user")
    assert over_contract.against_contract
    contract = find_preprocessing(model, None, CLIP, (224, 224))
    assert (contract.preprocessing, contract.source) == (CLIP, "contract")
    assert not contract.against_contract
    assert find_preprocessing(model, None, None, None).preprocessing.resize_mode == "longest"
    user = find_preprocessing(model, str(tmp_path / "open_clip_config.json"), CLIP, (224, 224))
    assert (user.preprocessing.resize_mode, user.source) == ("longest", "user")

    (tmp_path / "open_clip_config.json").unlink()
    beside(tmp_path, "config.json", {"model_type": "clip"})  # transformers' model configuration: no pixels in it
    found = find_preprocessing(model, None, None, (384, 384))
    assert (found.preprocessing, found.source) == (at_size(IMAGENET, (384, 384)), "assumed")
    assert ("size", "384, 384", "model input") in found.fields
    assert ("mean", "0.485, 0.456, 0.406", "assumed: ImageNet values") in found.fields


def test_presets_take_the_models_size(tmp_path: Path) -> None:
    found = find_preprocessing(tmp_path / "m.onnx", "clip", None, (336, 336))
    assert found.preprocessing == at_size(CLIP, (336, 336))
    assert ("resize_size", "336, 336", "clip, scaled") in found.fields
    assert find_preprocessing(tmp_path / "m.onnx", "clip", None, None).preprocessing == CLIP


OPEN_CLIP = {"size": 224, "resize_mode": "shortest"}
TIMM = {"input_size": [3, 224, 224]}
HF = {"size": {"height": 224, "width": 224}, "resample": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
FILES = {"open_clip": "open_clip_config.json", "timm": "config.json", "hf": "preprocessor_config.json"}


def test_bad_values_name_file_field_and_rule(tmp_path: Path) -> None:
    rows: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("open_clip", {"resize_mode": "fit"}, "resize_mode is 'fit'; it must be one of shortest, longest, squash"),
        ("open_clip", {"interpolation": "area"}, "interpolation is 'area'; it must be one of bicubic, bilinear"),
        ("open_clip", {"size": None}, r"size is missing; it must be an integer or \[height, width\]"),
        ("open_clip", {"size": 0}, "size.0 is 0; Input should be greater than 0"),
        ("open_clip", {"std": [1, 0, 1]}, r"std.1 is 0.0; Input should be greater than 0"),
        ("open_clip", {"mean": [1, "x", 1]}, "mean is 'x'; it must be a finite number"),
        ("open_clip", {"mean": [1, 2]}, r"mean is \[1, 2\]; it must be three numbers"),
        ("open_clip", {"mode": "L"}, "mode is 'L'; only RGB is supported"),
        ("timm", {"input_size": [1, 28, 28]}, r"input_size is \[1, 28, 28\]; it must be \[3, height, width\]"),
        ("timm", {"crop_pct": 1.5}, "crop_pct is 1.5; it must be above 0 and at most 1"),
        ("timm", {"crop_mode": "random"}, "crop_mode is 'random'; it must be one of center, squash, border"),
        ("timm", {"interpolation": "random"}, "interpolation is 'random'; Input should be 'nearest'"),
        ("hf", {"do_pad": True}, "do_pad is True; this step is not supported"),
        ("hf", {"resample": 9}, "resample is 9; it must be 0 to 5"),
        ("hf", {"image_mean": None}, "image_mean is missing; it must be three numbers"),
        ("hf", {"size": 224}, "size is 224 and image_processor_type is missing; size must be"),
        ("hf", {"size": {"shortest_edge": 224}}, "do_center_crop is false and size is a shortest edge"),
        ("hf", {"size": {"longest_edge": 224}}, r"size is \{'longest_edge': 224\}; it must be \{height, width\}"),
    )
    for kind, changed, message in rows:
        content: dict[str, Any] = {
            "open_clip": {"preprocess_cfg": {**OPEN_CLIP, **changed}},
            "timm": {"pretrained_cfg": {**TIMM, **changed}},
            "hf": {**HF, **changed},
        }[kind]
        path = beside(tmp_path, FILES[kind], content)
        with pytest.raises(UsageError, match=rf"{FILES[kind]}: {message}") as caught:
            find_preprocessing(path, None, None, None)
        assert caught.value.hint  # what to do instead
        (tmp_path / FILES[kind]).unlink()


def test_bad_own_files(tmp_path: Path) -> None:
    for content, message in (
        ("{", "content is not readable JSON"),
        ("[" * 100_000, "content is not readable JSON"),
        ("[1]", "content is a JSON list; it must be an object"),
        ('{"size": [224, 224]}', r"resize_mode is missing; Field required"),
        ('{"preprocessing": 3}', "preprocessing is 3; it must be an object"),
        (json.dumps({**CLIP.model_dump(), "sized": 1}), "sized is 1; Extra inputs are not permitted"),
        (json.dumps(CLIP.model_dump()).replace("0.48145466", "NaN"), "mean.0 is nan; Input should be a finite"),
    ):
        path = beside(tmp_path, "model.robustcheck.json", content)
        with pytest.raises(UsageError, match=rf"model\.robustcheck\.json: {message}"):
            find_preprocessing(path, None, None, None)


@pytest.mark.parametrize(("field", "none"), [("mean", r"\[0, 0, 0\]"), ("std", r"\[1, 1, 1\]")])
def test_own_files_state_mean_and_std(tmp_path: Path, field: str, none: str) -> None:
    partial = {name: value for name, value in IMAGENET.model_dump().items() if name != field}
    model = beside(tmp_path, "model.robustcheck.json", partial)
    for option in (None, str(tmp_path / "model.robustcheck.json")):
        with pytest.raises(UsageError, match=rf"{field} is missing; it must be stated, {none} where nothing is done"):
            find_preprocessing(model, option, None, (224, 224))


def test_defaults_of_own_files_are_told_from_stated_values(tmp_path: Path) -> None:
    partial = {name: value for name, value in IMAGENET.model_dump().items() if name not in ("color_order", "fill")}
    found = find_preprocessing(beside(tmp_path, "model.robustcheck.json", partial), None, None, (224, 224))
    assert found.preprocessing == IMAGENET
    assert ("color_order", "RGB", "robustcheck default") in found.fields
    assert ("fill", "0, 0, 0", "robustcheck default") in found.fields
    assert ("mean", "0.485, 0.456, 0.406", "model.robustcheck.json") in found.fields


def test_size_that_is_not_the_models_is_an_error(tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    with pytest.raises(UsageError, match=r"m\.onnx: contract: size is 224×224; the model's input is 336×224"):
        find_preprocessing(model, None, CLIP, (336, 224))
    beside(tmp_path, "open_clip_config.json", {"preprocess_cfg": OPEN_CLIP})
    with pytest.raises(UsageError, match=r"open_clip_config\.json: size is 224×224; the model's input is 336×336"):
        find_preprocessing(model, None, None, (336, 336))


def test_nothing_known_and_dynamic_size(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match="no option or sidecar says the preprocessing, and the input size is dynamic"
    ) as caught:
        find_preprocessing(tmp_path / "m.onnx", None, None, None)
    assert caught.value.hint == (
        f"robustcheck {tmp_path}/m.onnx --preprocess clip (or imagenet, or a JSON file), or write m.robustcheck.json "
        "beside it"
    )


def test_option_must_be_a_preset_or_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="value is clipp; it must be clip, imagenet or a JSON file that exists"):
        find_preprocessing(tmp_path / "m.onnx", "clipp", None, (224, 224))


SIGLIP = {
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_processor_type": "SiglipImageProcessor",
}


def repository(folder: Path, *names: str, sidecar: str = "preprocessor_config.json") -> Path:
    """Files as in a repository on the hub; the models are empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / sidecar).write_text(json.dumps(SIGLIP), encoding="utf-8")
    return folder


@pytest.mark.parametrize("other", ["b.onnx", "b.ONNX", "a_finetuned.onnx", "a_int8_finetuned.onnx", "onnx/model.onnx"])
def test_a_sidecar_beside_several_models_belongs_to_none_until_it_is_said(tmp_path: Path, other: str) -> None:
    repository(tmp_path, "a.onnx", other)
    model, sidecar = tmp_path / "a.onnx", tmp_path / "preprocessor_config.json"
    with pytest.raises(UsageError, match=rf"lies beside 2 models \(a\.onnx, {Path(other).name}, …\)") as caught:
        find_preprocessing(model, None, None, (224, 224))
    own = tmp_path / "a.robustcheck.json"
    assert caught.value.hint == f"robustcheck {model} --preprocess {sidecar}, or copy it to {own}"
    assert find_preprocessing(model, str(sidecar), None, (224, 224)).source == "user"
    own.write_bytes(sidecar.read_bytes())
    assert ("mean", "0.5, 0.5, 0.5", "a.robustcheck.json") in find_preprocessing(model, None, None, (224, 224)).fields
    own.unlink()
    (tmp_path / other).unlink()
    assert find_preprocessing(model, None, None, (224, 224)).source == "sidecar"


FORMS = ("fp16", "quantized", "int8", "uint8", "q4", "q4f16", "bnb4", "O4", "qint8_avx512_vnni", "fp16_optimized")


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (["model.onnx", *(f"model_{form}.onnx" for form in FORMS)], "model_q4f16.onnx"),
        (
            ["vision_model.onnx", "vision_model_int8.onnx", "text_model.onnx", "text_model_fp16.onnx"],
            "vision_model.onnx",
        ),
        (["model_fp16.onnx", "vision_model.onnx", "text_model.onnx"], "vision_model.onnx"),
        (["model_fp16.onnx", "vision_model.onnx", "text_model_uint8.onnx"], "model_fp16.onnx"),
        (["encoder_model.onnx", "decoder_model_merged_int8.onnx"], "encoder_model.onnx"),
        (["vit.onnx", "vit.fp16.ONNX", "vit-int8.onnx"], "vit.onnx"),
    ],
)
def test_forms_and_parts_of_one_checkpoint_share_its_sidecar(tmp_path: Path, names: list[str], model: str) -> None:
    repository(tmp_path, *(f"onnx/{name}" for name in names))
    found = find_preprocessing(tmp_path / "onnx" / model, None, None, (224, 224))
    assert (found.source, found.preprocessing.mean) == ("sidecar", (0.5, 0.5, 0.5))
    assert ("mean", "0.5, 0.5, 0.5", "../preprocessor_config.json") in found.fields


@pytest.mark.parametrize(
    ("names", "model", "other"),
    [
        (["onnx/model.onnx", "onnx/vision_model.onnx"], "onnx/model.onnx", "vision_model"),  # of one checkpoint?
        (["onnx/text_model.onnx", "onnx/vision_model.onnx"], "onnx/text_model.onnx", "vision_model"),
        (["onnx/model.onnx", "resnet.onnx"], "onnx/model.onnx", "resnet"),
        (["onnx/model.onnx", "onnx/models.onnx"], "onnx/model.onnx", "models"),
    ],
)
def test_a_repository_with_several_models_says_whose_sidecar_it_is(
    tmp_path: Path, names: list[str], model: str, other: str
) -> None:
    repository(tmp_path, *names)
    with pytest.raises(UsageError, match=rf"{re.escape(str(tmp_path))}/preprocessor_config.json: .*, {other}\.onnx, …"):
        find_preprocessing(tmp_path / model, None, None, (224, 224))


def test_the_nearest_sidecar_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path, "onnx/model.onnx")
    model = tmp_path / "onnx" / "model.onnx"
    (tmp_path / "onnx" / "config.json").write_text('{"model_type": "siglip"}')  # says nothing about pixels
    assert find_preprocessing(model, None, None, (224, 224)).fields[0][2] == "../preprocessor_config.json"
    monkeypatch.chdir(tmp_path / "onnx")
    assert find_preprocessing(Path("model.onnx"), None, None, (224, 224)).source == "sidecar"
    near = {**SIGLIP, "image_mean": [0.1, 0.1, 0.1]}
    (tmp_path / "onnx" / "preprocessor_config.json").write_text(json.dumps(near))
    assert find_preprocessing(model, None, None, (224, 224)).preprocessing.mean == (0.1, 0.1, 0.1)
    # only the hub's folder has sidecars above it
    repository(tmp_path / "other", "models/model.onnx")
    assert find_preprocessing(tmp_path / "other/models/model.onnx", None, None, (224, 224)).source == "assumed"
