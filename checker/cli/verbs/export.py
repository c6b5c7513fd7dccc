"""The verb `export`. It writes an ONNX file with its contract (preprocessing, tensors, source)."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from robustcheck_onnx.checker.errors import UsageError

from ..options import IMAGES, MODEL, OUTPUT, argument, option
from ..progress import progress_line
from ..question import Call, takes


@takes("debug")
def export(
    call: Call,
    source: Annotated[
        str,
        argument("open_clip, timm, torchvision, transformers, torch, or onnx.", "SOURCE", show_default=True),
    ],
    name: Annotated[
        str,
        argument(
            "The model's name in that library. torch: package.module:factory. onnx: an fp32 file with a contract, "
            "to be quantised.",
            "NAME",
            show_default=True,
        ),
    ],
    out: Annotated[
        Path,
        option("The ONNX file to write.", "MODEL.onnx", OUTPUT, "--out", "-o"),
    ],
    weights: Annotated[
        str | None,
        option("The library's name of the pretrained weights, or a checkpoint file.", "NAME", MODEL),
    ] = None,
    precision: Annotated[
        str,
        option("fp32, fp16, int8-dynamic or int8-qdq.", "PRECISION", MODEL),
    ] = "fp32",
    random_weights: Annotated[
        bool,
        option("Allow an untrained model; the file says so.", None, MODEL, "--random-weights"),
    ] = False,
    preprocessing: Annotated[
        Path | None,
        option("torch: JSON file that says how pixels become inputs.", "FILE", MODEL),
    ] = None,
    head: Annotated[
        str | None,
        option("torch: name of the last linear layer, such as fc.", "LAYER", MODEL),
    ] = None,
    zero_shot: Annotated[
        str | None,
        option(
            "open_clip, transformers CLIP: add a classifier's head of these class names, one a line (or the word "
            "imagenet). The measured representation stays the same.",
            "CLASSES.txt",
            MODEL,
        ),
    ] = None,
    templates: Annotated[
        str | None,
        option(
            "Prompts of --zero-shot, one a line with {}, or the word openai. Default: a photo of a {}.", "FILE", MODEL
        ),
    ] = None,
    matched_to: Annotated[
        str | None,
        option(
            "The encoder whose vectors the model was trained to give (distillation, feature matching), or none. "
            "The file says so; a check of a matched model is WARN.",
            "NAME",
            MODEL,
        ),
    ] = None,
    parity_images: Annotated[
        str | None,
        option("Photos on which the file is compared with the original. Default: the bundled ones.", "PATH", IMAGES),
    ] = None,
    calibration_images: Annotated[
        str | None,
        option(
            "int8-qdq: in-distribution photos that give the ranges of activations, at most 128; those that the "
            "file is compared on are left out. Default: the bundled ones.",
            "PATH",
            IMAGES,
        ),
    ] = None,
    quiet: Annotated[bool, option("No progress.", None, OUTPUT, "--quiet", "-q")] = False,
) -> int:
    """Write a model as ONNX, and prove that it equals the original.

    The file says how pixels become inputs, and which tensor is what.
    """
    from robustcheck_onnx.checker.isolation import tell_stage
    from robustcheck_onnx.exporters.from_onnx import CALIBRATION_PHOTOS
    from robustcheck_onnx.exporters.run import run
    from robustcheck_onnx.exporters.write import BATCHES, PHOTOS

    photos = _photo_files("parity", parity_images, 8)
    calibrated = precision == "int8-qdq" or calibration_images is not None
    calibration = _photo_files("calibration", calibration_images, CALIBRATION_PHOTOS + 8) if calibrated else []
    with progress_line(quiet=int(quiet)) as progress:
        record = run(
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
            tell=partial(tell_stage, progress),
        )
    parity = record.parity
    if record.calibrated_on:
        where = calibration_images or "bundled"
        sys.stdout.write(f"ranges of activations from {record.calibrated_on} photos ({where})\n")
    sys.stdout.write(
        f"wrote {out} ({record.size_bytes / 1e6:.1f} MB, {precision}, outputs {', '.join(record.outputs)})\n"
        f"parity with the original at batch {', '.join(map(str, BATCHES))} on {PHOTOS} photos: "
        f"max absolute {parity.max_abs:.2g}, max relative {parity.max_rel:.2g}, min cosine {parity.min_cosine:.7f}\n"
    )
    return 0


def _photo_files(what: str, spec: str | None, limit: int) -> list[Path]:
    """Return image files for an exporter."""
    from robustcheck_onnx.checker.images.source import open_images

    entries = open_images(spec, limit=limit).entries
    if not all(entry.origin for entry in entries):
        raise UsageError(
            f"{spec}: {what} photos lie inside one file; they must be image files", f"--{what}-images FOLDER"
        )
    return [Path(entry.origin) for entry in entries]
