"""The verb `export`: writes an ONNX file with its contract (preprocessing, tensors, source)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker.errors import UsageError

from ..options import Debug


def export(
    source: Annotated[str, typer.Argument(help="open_clip, timm, torchvision, transformers, torch, or onnx.")],
    name: Annotated[
        str,
        typer.Argument(
            help="The library's name of the model; for torch: package.module:factory; for onnx: an fp32 file with a "
            "contract, to be quantised."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.", metavar="MODEL.onnx")],
    weights: Annotated[str | None, typer.Option(help="Pretrained tag of the library, or a checkpoint file.")] = None,
    precision: Annotated[str, typer.Option(help="fp32, fp16, int8-dynamic or int8-qdq.")] = "fp32",
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Allow an untrained model; the file says so.")
    ] = False,
    preprocessing: Annotated[
        Path | None, typer.Option(help="JSON file with the preprocessing (source torch).", metavar="FILE")
    ] = None,
    head: Annotated[str | None, typer.Option(help="torch: name of the last linear layer, such as fc.")] = None,
    zero_shot: Annotated[
        str | None,
        typer.Option(
            help="open_clip, transformers CLIP: add a classifier's head of these class names, one a line (or the word "
            "imagenet); the measured representation stays the same.",
            metavar="CLASSES.txt",
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            help="Prompts of --zero-shot, one a line with {}, or the word openai. Default: a photo of a {}.",
            metavar="FILE",
        ),
    ] = None,
    matched_to: Annotated[
        str | None,
        typer.Option(
            help="The encoder whose vectors the model was trained to give (distillation, feature matching), or none. "
            "The file says so; a check of a matched model is WARN.",
            metavar="NAME|none",
        ),
    ] = None,
    parity_images: Annotated[
        str | None, typer.Option(help="Photos for the parity check. Default: the bundled ones.", metavar="PATH")
    ] = None,
    calibration_images: Annotated[
        str | None,
        typer.Option(
            help="int8-qdq: in-distribution photos that the ranges of activations are taken from (128 at most, without "
            "those of the parity check). Default: the bundled ones.",
            metavar="PATH",
        ),
    ] = None,
    debug: Debug = False,
) -> int:
    """Write an ONNX file that carries its preprocessing and meaning, and prove that it agrees with the original."""
    from robustcheck_onnx.exporters import run as exporter
    from robustcheck_onnx.exporters.quantize import CALIBRATION_PHOTOS

    photos = _photo_files("parity", parity_images, 8)
    calibrated = precision == "int8-qdq" or calibration_images is not None
    calibration = _photo_files("calibration", calibration_images, CALIBRATION_PHOTOS + 8) if calibrated else []
    record = exporter.run(
        source,
        name,
        out,
        weights=weights,
        precision=precision,
        random_weights=random_weights,
        preprocessing=preprocessing,
        head=head,
        zero_shot=zero_shot,
        templates=templates,
        matched_to=matched_to,
        photos=photos,
        calibration=calibration,
    )
    parity = record.parity
    if record.calibrated_on:
        where = calibration_images or "bundled"
        sys.stdout.write(f"ranges of activations from {record.calibrated_on} photos ({where})\n")
    sys.stdout.write(
        f"wrote {out} ({record.size_bytes / 1e6:.1f} MB, {precision}, outputs {', '.join(record.outputs)})\n"
        f"parity with the original at batch {', '.join(map(str, parity.batches))} on {parity.photos} photos: "
        f"max absolute {parity.max_abs:.2g}, max relative {parity.max_rel:.2g}, min cosine {parity.min_cosine:.7f}\n"
    )
    return 0


def _photo_files(what: str, spec: str | None, limit: int) -> list[Path]:
    """Paths of image files for an exporter."""
    from robustcheck_onnx.checker.images import open_images

    entries = open_images(spec, limit=limit).entries
    if not all(entry.origin for entry in entries):
        raise UsageError(
            f"{spec}: {what} photos lie inside one file; they must be image files", f"--{what}-images FOLDER"
        )
    return [Path(entry.origin) for entry in entries]
