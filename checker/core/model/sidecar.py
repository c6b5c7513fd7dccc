"""Find the preprocessing of a model and its source, and the image encoder among the files of a checkpoint."""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath, PurePosixPath
from typing import Literal, NamedTuple

from ...errors import UsageError
from ...paths import nearest_path
from ...text import first_of, quoted
from ..evidence import PreprocessingFacts
from ..images.preprocess import at_size
from ..preprocessing import IMAGENET, PRESETS, Preprocessing
from .configs import IMMICH, LOOK, Edges, check_size, parse_config, read_object
from .weights import about

OWN_SUFFIX = ".robustcheck.json"  # of our own sidecar: model.onnx has model.robustcheck.json
SIDECAR_NAMES = ("open_clip_config.json", IMMICH, "preprocessor_config.json", "config.json")  # in this order
HUB_FOLDER = "onnx"  # of a repository on Hugging Face's hub: holds its ONNX files


def sidecar_paths(model: Path) -> tuple[Path, ...]:
    """Return the possible sidecars of a model, of which the first that exists counts: our own, then the libraries'.

    Those of the libraries lie next to the model or, as on Hugging Face's hub, above a folder `onnx` that holds it.
    """
    paths = [model.with_suffix(OWN_SUFFIX)]
    paths += [model.parent / name for name in SIDECAR_NAMES]
    if model.parent.absolute().name == HUB_FOLDER:
        above = model.parent.parent if model.parent.name else Path("..")
        if os.access(above, os.R_OK | os.X_OK):  # else nobody could tell whose sidecar it is
            paths += [above / name for name in SIDECAR_NAMES]
    return tuple(paths)


Source = Literal["contract", "sidecar", "user", "assumed"]


class Chosen(NamedTuple):
    """A preprocessing and its source."""

    preprocessing: Preprocessing
    source: Source
    origin: str
    """where its fields come from"""
    exceptions: Mapping[str, str] = {}
    """the fields that come from elsewhere"""


# what optimum, transformers.js and sentence-transformers append to the name of a model's file for its precision
PRECISION = re.compile(
    r"([_.-](fp16|fp32|bf16|q?u?int[48](_(avx2|avx512|avx512_vnni|arm64))?|q[1248](f16)?|uint8f16|bnb4|quantized"
    r"|optimized|o[1-4]))+$"
)
# names of the files that optimum splits a checkpoint into
TEXT_TOWER = "text_model"
TEXT_FOLDER = "textual"  # of immich's checkpoints, next to the folder `visual`
IMAGE_TOWER = "vision_model"
FULL_AND_IMAGE_TOWER = {"model", IMAGE_TOWER}
IMAGELESS_PARTS = frozenset(
    (TEXT_TOWER, "decoder_model", "decoder_model_merged", "decoder_with_past_model", "embed_tokens")
)


def find_preprocessing(
    model_path: Path,
    option: str | None,
    contract_preprocessing: Preprocessing | None,
    input_size: Edges | None,
    *,
    stated_by: str = "",
    other_models: Sequence[Path] | None = None,
) -> PreprocessingFacts:
    """Find the preprocessing of a model, from the option, else the contract, else a sidecar, else assume it.

    Sidecars, the first that is there: `<model>.robustcheck.json`, `open_clip_config.json`, `preprocess_cfg.json`
    (immich), `preprocessor_config.json` (Hugging Face), `config.json` with `pretrained_cfg` (timm). For a model in a
    folder `onnx`, as on Hugging Face's hub, then the same names in the folder above.

    Args:
        model_path: the model; sidecars lie next to it, or above its folder `onnx`.
        option: `clip`, `imagenet`, or the path of a JSON file with our fields or in one of the sidecar formats.
        contract_preprocessing: what the model's contract says; None without a contract.
        input_size: height and width (px) of the model's input; None where it leaves them open. Presets and the
            assumption (torchvision's ImageNet values) take that size.
        stated_by: the option or the sidecar that stated the contract's; empty where an exporter knew it.
        other_models: where the other models of a copy's folders would be; None = those that are on the disk.

    Raises:
        UsageError: a value that is missing, impossible or not supported; a size that is not the model's;
            an input of dynamic size and nothing that names one; a sidecar that may be another model's.
    """
    if option is not None:
        chosen = from_option(option, input_size)
    elif contract_preprocessing is not None:
        with about(f"{model_path}: contract"):
            check_size(contract_preprocessing, input_size)
        origin = f"contract ({stated_by})" if stated_by else "contract"
        chosen = Chosen(contract_preprocessing, "contract", origin)
    else:
        chosen = _from_sidecar(model_path, input_size, other_models)
    fields = []
    for field, value in chosen.preprocessing.model_dump().items():
        fields.append((field, _short(value), chosen.exceptions.get(field, chosen.origin)))
    return PreprocessingFacts(
        preprocessing=chosen.preprocessing,
        source=chosen.source,
        fields=tuple(fields),
        origin=chosen.origin if option is None else f"--preprocess {option}",
        against_contract=contract_preprocessing not in (None, chosen.preprocessing),
    )


def models_below(folder: Path) -> list[Path]:
    """Return the ONNX files in a folder and its `onnx`, sorted. Their suffix may be in capitals."""
    models: list[Path] = []
    for place in (folder, folder / HUB_FOLDER):
        if place.is_dir():
            models += [path for path in place.iterdir() if path.suffix.lower() == ".onnx"]
    return sorted(models)


def takes_no_image(model: PurePath) -> bool:
    """Return whether a file's name or folder is that of a part of a split checkpoint that takes no image."""
    return model.parent.name == TEXT_FOLDER or checkpoint_part(model) in IMAGELESS_PARTS


SHOWN = 6  # files that an error names


def choose_model(paths: Sequence[str], shown: str, address_of: Callable[[str], str]) -> str:
    """Return the one image encoder among ONNX files, in full precision where there are several.

    Of a CLIP that is split into towers, the image tower is meant. Files of other names, or of other folders, are other
    checkpoints; a folder `onnx` is its parent's.

    Args:
        paths: of ONNX files, with `/`; at least one.
        shown: the address that names them all.
        address_of: makes the address of one, for the hint.

    Raises:
        UsageError: several encoders, of which one must be named.
    """
    encoders = [path for path in paths if not takes_no_image(PurePosixPath(path))] or list(paths)
    checkpoints = {_checkpoint(path) for path in encoders}
    is_split = TEXT_TOWER in {checkpoint_part(PurePosixPath(path)) for path in paths}
    is_one_folder = len({folder for folder, _ in checkpoints}) == 1
    if is_split and is_one_folder and {part for _, part in checkpoints} == FULL_AND_IMAGE_TOWER:
        towers = [path for path in encoders if checkpoint_part(PurePosixPath(path)) == IMAGE_TOWER]
        return choose_model(towers, shown, address_of)
    if len(checkpoints) == 1:
        stems = {path: PurePosixPath(path).stem.casefold() for path in encoders}
        plain = [path for path, stem in stems.items() if PRECISION.search(stem) is None]
        full = [path for path, stem in stems.items() if stem.endswith("fp32")]
        encoders = plain or full or encoders
    if len(encoders) == 1:
        return encoders[0]
    raise UsageError(
        f"{shown}: number of encoders is {len(encoders)} ({first_of(encoders, SHOWN)}); one must be named",
        f"robustcheck {shlex.quote(address_of(encoders[0]))}",
    )


def _checkpoint(path: str) -> tuple[PurePosixPath, str]:
    """Return a file's folder and its name without precision, which the forms of one checkpoint share."""
    folder = PurePosixPath(path).parent
    if folder.name == HUB_FOLDER:
        folder = folder.parent
    return folder, checkpoint_part(PurePosixPath(path))


def says_pixels(sidecar: Path) -> bool:
    """Return whether a sidecar describes pixels, which the config.json of a model in transformers does not.

    Raises UsageError: no JSON object.
    """
    return sidecar.name != "config.json" or "pretrained_cfg" in read_object(sidecar)


def from_option(option: str, input_size: Edges | None) -> Chosen:
    """Return the preprocessing that `--preprocess` states.

    Raises UsageError: neither a preset nor a JSON file that exists; as `parse_config`.
    """
    if option in PRESETS:
        origin = f"--preprocess {option}"
        if input_size is None:
            return Chosen(PRESETS[option], "user", origin)
        exceptions = {"size": "model input", "resize_size": f"{origin} (scaled)"}
        return Chosen(at_size(PRESETS[option], input_size), "user", origin, exceptions)
    path = Path(option)
    if not path.is_file():
        near = [*get_close_matches(option.lower(), PRESETS, 1), nearest_path(path)][0]
        raise UsageError(
            f"--preprocess: value is {option}; it must be clip, imagenet or a JSON file that exists",
            f"--preprocess {quoted(near)}" if near else LOOK,
        )
    preprocessing, defaults = parse_config(path, read_object(path), input_size)
    return Chosen(preprocessing, "user", str(path), defaults)


def _from_sidecar(model_path: Path, input_size: Edges | None, other_models: Sequence[Path] | None) -> Chosen:
    """Read the first sidecar that exists, or assume ImageNet values at the model's input size."""
    own, *others = sidecar_paths(model_path)
    for path in (own, *others):
        if not path.is_file() or not says_pixels(path):
            continue
        values = read_object(path)
        if path != own:
            _check_neighbours(model_path, path, other_models)
        preprocessing, defaults = parse_config(path, values, input_size)
        above = "" if path.parent == model_path.parent else "../"
        return Chosen(preprocessing, "sidecar", above + path.name, defaults)
    if input_size is None:
        raise UsageError(
            f"{model_path}: preprocessing is missing, and the input size is dynamic; an option or sidecar must give it",
            f"robustcheck {quoted(model_path)} --preprocess clip (or imagenet, or a JSON file), "
            f"or write {own.name} next to it",
        )
    return Chosen(at_size(IMAGENET, input_size), "assumed", "assumed: ImageNet values", {"size": "model input"})


def _check_neighbours(model_path: Path, sidecar: Path, other_models: Sequence[Path] | None) -> None:
    """Refuse a sidecar that names no model, next to several that are not forms of one checkpoint."""
    own_part = checkpoint_part(model_path)
    if other_models is None:
        here = model_path.parent.resolve() / model_path.name
        others = [path for path in models_below(sidecar.parent) if path.parent.resolve() / path.name != here]
    else:
        folders = (sidecar.parent, sidecar.parent / HUB_FOLDER)
        others = [path for path in other_models if path.parent in folders]
    parts = {path: checkpoint_part(path) for path in others}
    foreign = [path for path, part in parts.items() if part not in (own_part, *IMAGELESS_PARTS)]
    is_split = {own_part, *(parts[path] for path in foreign)} == FULL_AND_IMAGE_TOWER
    if not foreign or (is_split and TEXT_TOWER in parts.values()):
        return
    command = shlex.join(["robustcheck", str(model_path), "--preprocess", str(sidecar)])
    raise UsageError(
        f"{sidecar}: sidecar lies next to {len(others) + 1} models ({model_path.name}, {foreign[0].name}, …); "
        "it must be clear whose preprocessing it is",
        f"{command}, or copy it to {quoted(model_path.with_suffix(OWN_SUFFIX))}",
    )


def checkpoint_part(model: PurePath) -> str:
    """Return a model's name without its precision, which the forms of one model share."""
    return PRECISION.sub("", model.stem.casefold())


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(part) for part in value)
    if isinstance(value, float):
        return f"{value:.8g}"
    return str(value)
