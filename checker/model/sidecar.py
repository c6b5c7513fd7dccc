"""Find which preprocessing belongs to a model, and where each value came from."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final, Literal

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing, PreprocessingFacts
from robustcheck_onnx.checker.images.preprocess import at_size
from robustcheck_onnx.checker.storage.places import nearest_path
from robustcheck_onnx.checker.text import quoted

from .configs import HUB_FOLDER, LOOK, OWN_SUFFIX, parse_config, read_object, sidecar_paths

PRESETS: Final = {"clip": CLIP, "imagenet": IMAGENET}
Source = Literal["contract", "sidecar", "user", "assumed"]
# a preprocessing, the kind of its source, where its fields come from, and the fields that come from elsewhere
Chosen = tuple[Preprocessing, Source, str, Mapping[str, str]]

# what optimum, transformers.js and sentence-transformers append to the name of a model's file for its precision
PRECISION: Final = re.compile(
    r"([_.-](fp16|fp32|bf16|q?u?int[48](_(avx2|avx512|avx512_vnni|arm64))?|q[1248](f16)?|uint8f16|bnb4|quantized"
    r"|optimized|o[1-4]))+$"
)
# names of the files that optimum splits a checkpoint into
TEXT_TOWER: Final = "text_model"
IMAGE_TOWER: Final = "vision_model"
WHOLE_AND_IMAGE_TOWER: Final = {"model", IMAGE_TOWER}
IMAGELESS_PARTS: Final = frozenset(
    (TEXT_TOWER, "decoder_model", "decoder_model_merged", "decoder_with_past_model", "embed_tokens")
)


def find_preprocessing(
    model_path: Path,
    option: str | None,
    contract_preprocessing: Preprocessing | None,
    input_size: tuple[int, int] | None,
) -> PreprocessingFacts:
    """Find the preprocessing of a model: from the option, else the contract, else a sidecar, else assumed.

    Sidecars, the first that is there: `<model>.robustcheck.json`, `open_clip_config.json`,
    `preprocessor_config.json` (Hugging Face), `config.json` with `pretrained_cfg` (timm). For a model in a folder
    `onnx`, as on Hugging Face's hub, then the same three names in the folder above.

    Args:
        model_path: the model; sidecars lie beside it, or above its folder `onnx`.
        option: `clip`, `imagenet`, or the path of a JSON file with our fields or in one of the sidecar formats.
        contract_preprocessing: what the model's contract says; None without a contract.
        input_size: height and width (px) of the model's input; None where it leaves them open. Presets and the
            assumption (torchvision's ImageNet values) take that size.

    Raises:
        UsageError: a value that is missing, impossible or not supported; a size that is not the model's;
            an input of dynamic size and nothing that names one.
    """
    if option is not None:
        preprocessing, source, origin, exceptions = _from_option(option, input_size)
    elif contract_preprocessing is not None:
        _check_size(f"{model_path}: contract", contract_preprocessing, input_size)
        preprocessing, source, origin, exceptions = contract_preprocessing, "contract", "contract", {}
    else:
        preprocessing, source, origin, exceptions = _from_sidecar(model_path, input_size)
    values = preprocessing.model_dump()
    return PreprocessingFacts(
        preprocessing=preprocessing,
        source=source,
        fields=tuple((field, _short(value), exceptions.get(field, origin)) for field, value in values.items()),
        against_contract=contract_preprocessing is not None and preprocessing != contract_preprocessing,
    )


def models_below(folder: Path) -> list[Path]:
    """List the ONNX files in a folder and in a folder `onnx` in it, sorted; the suffix may be in capitals."""
    folders = [each for each in (folder, folder / HUB_FOLDER) if each.is_dir()]
    return sorted(path for each in folders for path in each.iterdir() if path.suffix.lower() == ".onnx")


def takes_no_image(model: PurePath) -> bool:
    """Whether a file is, by its name, a part of a split checkpoint that takes no image, as a CLIP's text tower."""
    return checkpoint_part(model) in IMAGELESS_PARTS


def says_pixels(sidecar: Path) -> bool:
    """Whether a file named as a sidecar says what pixels are; transformers' config.json, of a model, does not.

    Raises UsageError: no JSON object.
    """
    return sidecar.name != "config.json" or "pretrained_cfg" in read_object(sidecar)


def _from_option(option: str, input_size: tuple[int, int] | None) -> Chosen:
    if option in PRESETS:
        preset = PRESETS[option]
        if input_size is None:
            return preset, "user", f"--preprocess {option}", {}
        exceptions = {"size": "model input", "resize_size": f"{option}, scaled"}
        return at_size(preset, input_size), "user", f"--preprocess {option}", exceptions
    path = Path(option)
    if not path.is_file():
        near = difflib.get_close_matches(option.lower(), PRESETS, 1) or nearest_path(path)
        raise UsageError(
            f"--preprocess: value is {option}; it must be clip, imagenet or a JSON file that exists",
            f"--preprocess {quoted(near[0] if isinstance(near, list) else near)}" if near else LOOK,
        )
    preprocessing, defaults = parse_config(path, read_object(path), input_size)
    _check_size(str(path), preprocessing, input_size)
    return preprocessing, "user", str(path), defaults


def _from_sidecar(model_path: Path, input_size: tuple[int, int] | None) -> Chosen:
    """Read the first sidecar that is there; without one, assume ImageNet values at the model's input size."""
    own, *others = sidecar_paths(model_path)
    for path in (own, *others):
        if path.is_file():
            if not says_pixels(path):
                continue
            values = read_object(path)
            if path != own:
                _check_neighbours(model_path, path)
            preprocessing, defaults = parse_config(path, values, input_size)
            _check_size(str(path), preprocessing, input_size)
            named = path.name if path.parent == model_path.parent else f"../{path.name}"
            return preprocessing, "sidecar", named, defaults
    if input_size is None:
        raise UsageError(
            f"{model_path}: no option or sidecar says the preprocessing, and the input size is dynamic; one is needed",
            f"robustcheck {quoted(model_path)} --preprocess clip (or imagenet, or a JSON file), "
            f"or write {own.name} beside it",
        )
    return at_size(IMAGENET, input_size), "assumed", "assumed: ImageNet values", {"size": "model input"}


def _check_neighbours(model_path: Path, sidecar: Path) -> None:
    """Refuse a sidecar that names no model and lies beside several models, unless they are forms of one checkpoint."""
    here, own_part = (model_path.parent.resolve(), model_path.name), checkpoint_part(model_path)
    others = [path for path in models_below(sidecar.parent) if (path.parent.resolve(), path.name) != here]
    foreign = [path for path in others if checkpoint_part(path) not in (own_part, *IMAGELESS_PARTS)]
    split = {own_part, *map(checkpoint_part, foreign)} == WHOLE_AND_IMAGE_TOWER
    if foreign and not (split and TEXT_TOWER in map(checkpoint_part, others)):
        raise UsageError(
            f"{sidecar}: sidecar lies beside {len(others) + 1} models ({model_path.name}, {foreign[0].name}, …); "
            "it must be clear whose preprocessing it is",
            shlex.join(["robustcheck", str(model_path), "--preprocess", str(sidecar)])
            + f", or copy it to {quoted(model_path.with_suffix(OWN_SUFFIX))}",
        )


def checkpoint_part(model: PurePath) -> str:
    """Give the name of a model without what says its precision: files that share it are forms of one model."""
    return PRECISION.sub("", model.stem.casefold())


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(part) for part in value)
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _check_size(where: str, preprocessing: Preprocessing, input_size: tuple[int, int] | None) -> None:
    if input_size is not None and preprocessing.size != input_size:
        (height, width), (rows, columns) = preprocessing.size, input_size
        raise UsageError(
            f"{where}: size is {height}×{width}; the model's input is {rows}×{columns} (height×width)",
            f"give this model's own preprocessing, of size [{rows}, {columns}], with --preprocess FILE",
        )
