"""Find which preprocessing belongs to a model, and where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import CLIP, IMAGENET, Preprocessing, PreprocessingFacts
from robustcheck_onnx.checker.images import at_size

from .configs import OWN_SUFFIX, parse_config, read_object, sidecar_paths

PRESETS: Final = {"clip": CLIP, "imagenet": IMAGENET}
Source = Literal["contract", "sidecar", "user", "assumed"]
# a preprocessing, the kind of its source, where its fields come from, and the fields that come from elsewhere
Chosen = tuple[Preprocessing, Source, str, Mapping[str, str]]


def find_preprocessing(
    model_path: Path,
    option: str | None,
    contract_preprocessing: Preprocessing | None,
    input_size: tuple[int, int] | None,
) -> PreprocessingFacts:
    """Find the preprocessing of a model: from the option, else the contract, else a sidecar, else assumed.

    Sidecars, the first that is there: `<model>.robustcheck.json`, `open_clip_config.json`,
    `preprocessor_config.json` (Hugging Face), `config.json` with `pretrained_cfg` (timm).

    Args:
        model_path: the model; sidecars lie beside it.
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


def models_in(folder: Path) -> list[str]:
    """List the names of the ONNX files in a folder, sorted; the suffix may be in capitals."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".onnx")


def _from_option(option: str, input_size: tuple[int, int] | None) -> Chosen:
    if option in PRESETS:
        preset = PRESETS[option]
        if input_size is None:
            return preset, "user", f"--preprocess {option}", {}
        exceptions = {"size": "model input", "resize_size": f"{option}, scaled"}
        return at_size(preset, input_size), "user", f"--preprocess {option}", exceptions
    path = Path(option)
    if not path.is_file():
        raise UsageError(
            f"--preprocess: value is {option}; it must be clip, imagenet or a JSON file that exists",
            "--preprocess clip",
        )
    preprocessing, defaults = parse_config(path, read_object(path), input_size)
    _check_size(str(path), preprocessing, input_size)
    return preprocessing, "user", str(path), defaults


def _from_sidecar(model_path: Path, input_size: tuple[int, int] | None) -> Chosen:
    """Read the first sidecar that is there; without one, assume ImageNet values at the model's input size."""
    own, *others = sidecar_paths(model_path)
    for path in (own, *others):
        if path.is_file():
            values = read_object(path)
            if path.name == "config.json" and "pretrained_cfg" not in values:
                continue  # the model configuration of transformers: says nothing about pixels
            if path != own:
                _check_neighbours(model_path, path)
            preprocessing, defaults = parse_config(path, values, input_size)
            _check_size(str(path), preprocessing, input_size)
            return preprocessing, "sidecar", path.name, defaults
    if input_size is None:
        raise UsageError(
            f"{model_path}: preprocessing is not known and the input size is dynamic; one of them is needed",
            f"robustcheck {model_path} --preprocess clip|imagenet|FILE, or write {own.name} beside it",
        )
    return at_size(IMAGENET, input_size), "assumed", "assumed: ImageNet values", {"size": "model input"}


def _check_neighbours(model_path: Path, sidecar: Path) -> None:
    """Refuse a sidecar that names no model and lies beside several models."""
    others = [name for name in models_in(sidecar.parent) if name != model_path.name]
    if others:
        raise UsageError(
            f"{sidecar}: sidecar lies beside {len(others) + 1} models ({model_path.name}, {others[0]}, …); "
            "it must be clear whose preprocessing it is",
            f"--preprocess {sidecar}, or rename it to {model_path.with_suffix(OWN_SUFFIX).name}",
        )


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
