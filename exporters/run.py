"""Exports a model: a source and a name become an ONNX file. Other rooms start here."""

from __future__ import annotations

import difflib
import importlib
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import zero_shot as prompts
from .contract import Loaded, checked_preprocessing
from .errors import ENVIRONMENT, USAGE, ExportError, install_hint
from .messages import untold
from .quantize import calibration_photos
from .write import ExportRecord, check_call, export
from .zero_shot import Prompts

SOURCES = ("open_clip", "timm", "torchvision", "transformers", "torch", "onnx")


def run(
    source: str,
    name: str,
    out: Path,
    *,
    weights: str | None = None,
    precision: str = "fp32",
    random_weights: bool = False,
    preprocessing: Path | None = None,
    head: str | None = None,
    zero_shot: str | None = None,
    templates: str | None = None,
    matched_to: str | None = None,
    photos: Sequence[Path],
    calibration: Sequence[Path] = (),
    tell: Callable[[str], None] = untold,
) -> ExportRecord:
    """Load a model from its own library and write it as an ONNX file with the contract.

    Args:
        source: one of SOURCES.
        name: the library's name of the model; for torch "package.module:factory"; for onnx the fp32 file.
        out: target, ends in .onnx.
        weights: pretrained tag of the library, or a checkpoint file.
        precision: fp32, fp16, int8-dynamic or int8-qdq; for the source onnx one of the last three.
        random_weights: export without weights, and say so in the contract.
        preprocessing: JSON file that replaces the library's preprocessing.
        head: torch only: dotted name of the last linear layer.
        zero_shot: open_clip and transformers only: class names of a classifier whose head the text tower makes (see
            zero_shot.read_prompts).
        templates: prompts for the class names.
        matched_to: the encoder whose vectors the model was trained to give (distillation, feature matching), or "none"
            where it was trained otherwise; None = not said.
        photos: at least 5 image files on which parity is measured.
        calibration: image files that int8-qdq takes the ranges of activations from.
        tell: called with what is done, when each stage begins.

    Raises:
        ExportError: see its exit codes. Nothing is left behind.
    """
    if source not in SOURCES:
        close = difflib.get_close_matches(source, SOURCES, 1)
        raise ExportError(
            f"source is {source!r}; it must be one of {', '.join(SOURCES)}",
            shlex.join(["robustcheck", "export", close[0] if close else SOURCES[0], name, "-o", str(out)]),
            exit_code=USAGE,
        )
    if matched_to is not None and (not matched_to.strip() or not matched_to.isprintable() or len(matched_to) > 200):
        raise ExportError(
            f"--matched-to is {matched_to!r}; it must be one line of 1 to 200 characters",
            "--matched-to none, or the name of the encoder",
            exit_code=USAGE,
        )
    if source == "onnx":
        _check_onnx_options(
            name,
            out,
            weights=weights,
            random_weights=random_weights,
            preprocessing=preprocessing,
            head=head,
            zero_shot=zero_shot,
            templates=templates,
        )
        from .from_onnx import quantise_file

        return quantise_file(
            Path(name),
            Path(out),
            precision=precision,
            photos=photos,
            calibration=calibration,
            matched_to=matched_to,
            tell=tell,
        )
    if head and source != "torch":
        raise ExportError(
            f"--head is {head}; it is for the source torch only; the head of {source} models is known",
            shlex.join(["robustcheck", "export", source, name, "-o", str(out)]),
            exit_code=USAGE,
        )
    if templates is not None and zero_shot is None:
        raise ExportError(
            f"--templates is {templates}; it is for the class names of --zero-shot",
            shlex.join(["robustcheck", "export", source, name, "--zero-shot", "CLASSES.txt", "-o", str(out)]),
            exit_code=USAGE,
        )
    if zero_shot is not None and source not in prompts.SOURCES:
        raise prompts.source_error(source, name)
    check_call(Path(out), precision, photos)
    calibration_photos(precision, calibration, photos)  # before a model is loaded
    fields = read_preprocessing(preprocessing) if preprocessing else None
    words = None if zero_shot is None else prompts.read_prompts(zero_shot, templates)
    tell(f"loading {name} from {source}")
    loaded = _load(
        source,
        name,
        weights=weights,
        random_weights=random_weights,
        preprocessing=fields,
        head=head,
        words=words,
    )
    if matched_to is not None:
        loaded = replace(loaded, source=replace(loaded.source, matched_to=matched_to))
    return export(loaded, Path(out), precision=precision, photos=photos, calibration=calibration, tell=tell)


def _check_onnx_options(name: str, out: Path, **options: Any) -> None:
    """Refuse what an ONNX file has settled already."""
    if given := [option for option, value in options.items() if value not in (None, False)]:
        raise ExportError(
            f"--{given[0].replace('_', '-')} is given; an ONNX file has its weights, preprocessing and outputs already",
            shlex.join(["robustcheck", "export", "onnx", name, "--precision", "int8-qdq", "-o", str(out)]),
            exit_code=USAGE,
        )


def _load(
    source: str,
    name: str,
    *,
    head: str | None,
    words: Prompts | None,
    **options: Any,
) -> Loaded:
    try:
        module = importlib.import_module(f"robustcheck_onnx.exporters.from_{source}")
    except ImportError as error:
        raise ExportError(
            f"{source}: package {error.name or source} is not importable ({error}); exporting needs it",
            install_hint("export"),
            exit_code=ENVIRONMENT,
        ) from error
    if source == "torch":
        options["head"] = head
    if words is not None:
        options["prompts"] = words
    loaded: Loaded = module.load(name, **options)
    return loaded


def read_preprocessing(path: Path) -> dict[str, Any]:
    """Return the preprocessing in a JSON file, checked.

    Raises:
        ExportError: the file is missing, is not a JSON object, or a field is wrong (exit 2).
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path}: preprocessing is unreadable ({error}); it must be a JSON object",
            f"python -m json.tool {shlex.quote(str(path))}",
            exit_code=USAGE,
        ) from error
    if not isinstance(values, dict):
        raise ExportError(
            f"{path}: preprocessing is a JSON {type(values).__name__}; it must be an object",
            'its fields are on the page "The ONNX contract"',
            exit_code=USAGE,
        )
    return checked_preprocessing(values, str(path))
