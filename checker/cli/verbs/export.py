"""The verbs `export` and `demo`. They write ONNX files."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from robustcheck_onnx.checker.errors import EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.text import number_text, quoted

from ..options import IMAGES, MODEL, OUTPUT, argument, option
from ..output import ascii_only, console_for
from ..question import Call, progress_line, takes


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


if TYPE_CHECKING:
    from rich.console import RenderableType

    from robustcheck_onnx.checker.report.layout import Pen
    from robustcheck_onnx.checker.report.record import Report


EXPECTED = {"ordinary": "WARN", "planted": "PASS"}
SHOWN = {
    "ordinary": "Least squares on the bundled photos: it predicts a photo's lower half from its upper half. A real "
    "encoder, if a tiny one; nothing was planted.",
    "planted": "The same encoder, with one feature shifted by hand so that it is extreme in every image.",
}
MEANS = {
    "ordinary": "WARN: the outlier features are absent. That does not make the encoder fragile.",
    "planted": "PASS, of a SYNTHETIC model: it shows what the check looks for, not that this encoder is robust. Only "
    "the contract in the file shows that the feature was planted.",
}


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
    import tempfile

    from robustcheck_onnx.checker import pipeline
    from robustcheck_onnx.checker.demo import NAMES, train, write
    from robustcheck_onnx.checker.isolation import tell_stage
    from robustcheck_onnx.checker.report.forms import verdict_text
    from robustcheck_onnx.checker.report.layout import Pen, Trimmed

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
                console.print(line if call.settings.quiet else Trimmed(_excerpt(name, report, pen)))
            if report.verdict.verdict != EXPECTED[name]:
                raise RobustcheckError(
                    f"demo: verdict on the {name} encoder is {report.verdict.verdict}; it must be {EXPECTED[name]}",
                    "robustcheck doctor",
                )
        if keep is not None:
            _copy(models, keep)
    if not call.settings.quiet:
        console.print(_next(keep, pen), crop=False)
    return 0


def _copy(models: list[Path], folder: Path) -> None:
    """Copy the models into a folder. Each appears there complete. Raises EnvironmentFaultError."""

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for model in models:
            unfinished = folder / f".{model.name}.tmp"
            try:
                shutil.copyfile(model, unfinished)
                unfinished.replace(folder / model.name)
            finally:
                unfinished.unlink(missing_ok=True)
    except OSError as fault:
        raise EnvironmentFaultError(
            f"{folder}: models could not be written ({fault.strerror}); the folder must be writable",
            f"ls -ld {quoted(folder.parent)}; df -h",
        ) from fault


def _excerpt(name: str, report: Report, pen: Pen) -> RenderableType:
    """Return an excerpt of a report.

    It has what the encoder is, verdict, reasons, the deciding statistics with their thresholds.
    """
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    from robustcheck_onnx.checker.report import forms
    from robustcheck_onnx.checker.report.layout import COLOURS, columns, hanging, section
    from robustcheck_onnx.checker.verdict.reasons import NAMES

    verdict, statistics = report.verdict, report.evidence.statistics
    passes = verdict.verdict == "PASS"
    rows = [("✗", f"{reason.id}: {reason.seen}") for reason in verdict.reasons]
    rows += [("•", note) for note in report.notes if report.evidence.model.synthetic in note and passes]
    table = columns(pen, "=statistic", ">value", ">threshold", "clears it?")
    for statistic in report.profile.deciding:
        interval, limits = getattr(statistics, statistic), report.profile.limits_of(statistic)
        clears = forms.clears(interval, limits)
        sign = {"yes": "✓", "no": "✗"}.get(clears, "~")
        cells = (NAMES[statistic], number_text(interval.estimate), str(limits), f"{sign} {clears}")
        table.add_row(*map(pen.say, cells))
    images = f"{statistics.n_images} bundled photos, {statistics.n_features} features"
    colour = f"bold {COLOURS[verdict.verdict]}"
    return Group(
        section(pen, f"{name} encoder", images, pen.prose(SHOWN[name])),
        Text(),
        Padding(pen.say(f"{'✓' if passes else '▲'} {verdict.verdict}", colour), (0, 0, 0, 2)),
        Padding(hanging([(pen.say(sign), pen.say(text)) for sign, text in rows]), (0, 0, 0, 2)),
        Padding(table, (1, 0, 1, 2)),
        Padding(pen.prose(MEANS[name]), (0, 0, 1, 2)) if verdict.verdict == EXPECTED[name] else Text(),
    )


def _next(keep: Path | None, pen: Pen) -> RenderableType:
    """Return the commands to type next."""
    from rich.console import Group

    from robustcheck_onnx.checker.report.layout import section

    again = "robustcheck demo --keep FOLDER" if keep is None else f"robustcheck {quoted(keep / 'planted.onnx')}"
    steps = (
        ("Check your model on your photos:", "robustcheck model.onnx --images photos/"),
        ("Read what a reason means:", "robustcheck explain too_weak"),
        ("Keep these two files for a full report:" if keep is None else "See the full report:", again),
    )
    parts = (part for what, typed in steps for part in (pen.prose(f"  {what}"), pen.command(f"    {typed}")))
    return Group(section(pen, "Next", ""), *parts)
