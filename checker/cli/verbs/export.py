"""The verbs `export` and `demo`. They write ONNX files."""

import sys
import tempfile
from functools import partial
from pathlib import Path

from robustcheck_onnx.checker.errors import RobustcheckError, UsageError

from ..options import IMAGES, MODEL, OUTPUT, argument, option
from ..output import ascii_only, console_for, progress_line
from . import Call, takes


@takes(
    "quiet",
    "debug",
    quiet={"help": "No progress."},
    source=argument("open_clip, timm, torchvision, transformers, torch, or onnx.", "SOURCE", show_default=True),
    name=argument(
        "The model's name in that library. torch: package.module:factory. onnx: an fp32 file with a contract, "
        "to be quantised.",
        "NAME",
        show_default=True,
    ),
    out=option("The ONNX file to write.", "MODEL.onnx", OUTPUT, "--out", "-o"),
    weights=option("The library's name of the pretrained weights, or a checkpoint file.", "NAME", MODEL),
    precision=option("fp32, fp16, int8-dynamic or int8-qdq.", "PRECISION", MODEL),
    random_weights=option("Allow an untrained model; the file says so.", None, MODEL),
    preprocessing=option("torch: JSON file that says how pixels become inputs.", "FILE", MODEL),
    head=option("torch: name of the last linear layer, such as fc.", "LAYER", MODEL),
    zero_shot=option(
        "open_clip, transformers CLIP: add a classifier's head of these class names, one per line (or the word "
        "imagenet). The measured representation stays the same.",
        "CLASSES.txt",
        MODEL,
    ),
    templates=option(
        "Prompts of --zero-shot, one per line with {}, or the word openai. Default: a photo of a {}.", "FILE", MODEL
    ),
    matched_to=option(
        "The encoder whose vectors the model was trained to give (distillation, feature matching), or none. "
        "The file says so; a check of a matched model is WARN.",
        "NAME",
        MODEL,
    ),
    parity_images=option(
        "Photos on which the file is compared with the original. Default: the bundled ones.", "PATH", IMAGES
    ),
    calibration_images=option(
        "int8-qdq: in-distribution photos that give the ranges of activations, at most 128; those that the "
        "file is compared on are left out. Default: the bundled ones.",
        "PATH",
        IMAGES,
    ),
)
def export(
    call: Call,
    source: str,
    name: str,
    out: Path,
    weights: str | None = None,
    precision: str = "fp32",
    random_weights: bool = False,
    preprocessing: Path | None = None,
    head: str | None = None,
    zero_shot: str | None = None,
    templates: str | None = None,
    matched_to: str | None = None,
    parity_images: str | None = None,
    calibration_images: str | None = None,
) -> int:
    """Write a model as ONNX, and prove that it equals the original.

    The file says how pixels become inputs, and which tensor is what.
    """
    from robustcheck_onnx.checker.isolation import tell_stage
    from robustcheck_onnx.exporters.files import BATCHES, CALIBRATION_PHOTOS, PARITY_PHOTOS
    from robustcheck_onnx.exporters.run import run

    photos = _photo_files("parity", parity_images, 8)
    calibrated = precision == "int8-qdq" or calibration_images is not None
    calibration = _photo_files("calibration", calibration_images, CALIBRATION_PHOTOS + 8) if calibrated else []
    with progress_line(call.settings.quiet) as progress:
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
    parity, where = record.parity, calibration_images or "bundled"
    if record.calibrated_on:
        sys.stdout.write(f"ranges of activations from {record.calibrated_on} photos ({where})\n")
    sys.stdout.write(
        f"wrote {out} ({record.size_bytes / 1e6:.1f} MB, {precision}, outputs {', '.join(record.outputs)})\n"
        f"parity with the original at batch {', '.join(map(str, BATCHES))} on {PARITY_PHOTOS} photos: "
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


@takes(
    "quiet",
    "color",
    "debug",
    keep=option("Keep the two ONNX files in this folder. Default: they are deleted.", "FOLDER", show_default=False),
)
def demo(call: Call, keep: Path | None = None) -> int:
    """Make two tiny models, check both, and explain the verdicts.

    The exit code is not a verdict. It is 0 when the demo showed what it should (WARN, and a synthetic PASS), else 70.
    """
    from robustcheck_onnx.checker import pipeline
    from robustcheck_onnx.checker.demo import EXPECTED, NAMES, copy_models, excerpt, next_steps, train, write
    from robustcheck_onnx.checker.isolation import tell_stage
    from robustcheck_onnx.checker.report.forms import verdict_text
    from robustcheck_onnx.checker.report.terminal import Pen, Trimmed

    if keep is not None and keep.exists() and not keep.is_dir():
        raise UsageError(f"{keep}: --keep is a file; it must be a folder", "robustcheck demo --keep robustcheck-demo")
    for file in (keep / f"{name}.onnx" for name in NAMES) if keep is not None else ():
        if file.exists():
            raise UsageError(
                f"{file}: file exists already; the demo does not replace it", "robustcheck demo --keep ANOTHER_FOLDER"
            )
    console = console_for(call.settings.color)
    pen = Pen(ascii_only(console))
    with tempfile.TemporaryDirectory(prefix="robustcheck-demo-") as folder:
        models = [Path(folder) / f"{name}.onnx" for name in NAMES]
        with progress_line(call.settings.quiet) as progress:
            tell_stage(progress, "making two tiny encoders from the bundled photos")
            weights, mean = train()
            for name, model in zip(NAMES, models, strict=True):
                write(model, name, weights, mean)
            reports = [pipeline.check(model, device="cpu", isolate=False, progress=progress) for model in models]
        for name, report in zip(NAMES, reports, strict=True):
            if call.settings.quiet < 2:
                line = pen.say(f"{name} encoder: {verdict_text(report.verdict)}")
                console.print(line if call.settings.quiet else Trimmed(excerpt(name, report, pen)))
            if report.verdict.verdict != EXPECTED[name]:
                raise RobustcheckError(
                    f"demo: verdict on the {name} encoder is {report.verdict.verdict}; it must be {EXPECTED[name]}",
                    "robustcheck doctor",
                )
        if keep is not None:
            copy_models(models, keep)
    if not call.settings.quiet:
        console.print(next_steps(keep, pen), crop=False)
    return 0
