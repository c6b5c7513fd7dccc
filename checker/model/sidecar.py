"""Which preprocessing belongs to a model, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing
from robustcheck_onnx.checker.images import at_size

from .configs import NAMES, OWN, _json_of, _parse

Source = Literal["contract", "sidecar", "user", "assumed"]
PRESETS: Final = {"clip": CLIP, "imagenet": IMAGENET}


class Found(NamedTuple):
    """A preprocessing, the kind of its source, and (field, value, where it came from) for a report."""

    preprocessing: Preprocessing
    source: Source
    origins: list[tuple[str, str, str]]


def find_preprocessing(
    model_path: Path,
    option: str | None,
    contract_preprocessing: Preprocessing | None,
    input_size: tuple[int, int] | None,
) -> Found:
    """The preprocessing of a model: from the option, else the contract, else a sidecar, else assumed.

    option: `clip`, `imagenet`, or the path of a JSON file with our fields or in one of the sidecar formats.
    Sidecars, the first that is there: `<model>.robustcheck.json`, `open_clip_config.json`,
    `preprocessor_config.json` (Hugging Face), `config.json` with `pretrained_cfg` (timm).
    input_size: (height, width), px, of the model's input; None where it is dynamic. Presets and the
    assumption (torchvision's ImageNet values) take that size.
    Raises UsageError: a value that is missing, impossible or not supported; a size that is not the model's;
    an input of dynamic size and nothing that names one.
    """
    if option is not None:
        return _from_option(option, input_size)
    if contract_preprocessing is not None:
        _check_size(f"{model_path}: contract", contract_preprocessing, input_size)
        return Found(contract_preprocessing, "contract", _origins(contract_preprocessing, "contract", {}))
    own = model_path.with_suffix(OWN)
    for path in (own, *(model_path.with_name(name) for name in NAMES)):
        if path.is_file():
            values = _json_of(path)
            if path.name == "config.json" and "pretrained_cfg" not in values:
                continue  # the model configuration of transformers: says nothing about pixels
            if path != own:
                _check_neighbours(model_path, path)
            preprocessing, defaults = _parse(path, values, input_size)
            _check_size(str(path), preprocessing, input_size)
            return Found(preprocessing, "sidecar", _origins(preprocessing, path.name, defaults))
    if input_size is None:
        raise UsageError(
            f"{model_path}: preprocessing is not known and the input size is dynamic; one of them is needed",
            f"robustcheck {model_path} --preprocess clip|imagenet|FILE, or write {own.name} beside it",
        )
    assumed = at_size(IMAGENET, input_size)
    return Found(assumed, "assumed", _origins(assumed, "assumed: ImageNet values", {"size": "model input"}))


def models_in(folder: Path) -> list[str]:
    """Names of the ONNX files in a folder, sorted; suffixes without case, as everywhere."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".onnx")


def _check_neighbours(model_path: Path, sidecar: Path) -> None:
    """A sidecar that names no model can only be trusted beside one model."""
    others = [name for name in models_in(sidecar.parent) if name != model_path.name]
    if others:
        raise UsageError(
            f"{sidecar}: sidecar lies beside {len(others) + 1} models ({model_path.name}, {others[0]}, …); "
            "it must be clear whose preprocessing it is",
            f"--preprocess {sidecar}, or rename it to {model_path.with_suffix(OWN).name}",
        )


def _from_option(option: str, input_size: tuple[int, int] | None) -> Found:
    if option in PRESETS:
        preset = PRESETS[option]
        sized = preset if input_size is None else at_size(preset, input_size)
        where = {} if input_size is None else {"size": "model input", "resize_size": f"{option}, scaled"}
        return Found(sized, "user", _origins(sized, f"--preprocess {option}", where))
    path = Path(option)
    if not path.is_file():
        raise UsageError(
            f"--preprocess: value is {option}; it must be clip, imagenet or a JSON file that exists",
            "--preprocess clip",
        )
    preprocessing, defaults = _parse(path, _json_of(path), input_size)
    _check_size(str(path), preprocessing, input_size)
    return Found(preprocessing, "user", _origins(preprocessing, str(path), defaults))


def _origins(preprocessing: Preprocessing, where: str, exceptions: Mapping[str, str]) -> list[tuple[str, str, str]]:
    values = preprocessing.model_dump()
    return [(field, _short(value), exceptions.get(field, where)) for field, value in values.items()]


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(_short(part) for part in value)
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _check_size(where: str, preprocessing: Preprocessing, input_size: tuple[int, int] | None) -> None:
    if input_size is not None and preprocessing.size != input_size:
        (height, width), (rows, columns) = preprocessing.size, input_size
        raise UsageError(
            f"{where}: size is {height}×{width}; the model's input is {rows}×{columns} (height×width)",
            "give the preprocessing of this model with --preprocess FILE",
        )
