"""The verbs that write models and profiles: `export`, `demo` and `calibrate`."""

import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from ...errors import RobustcheckError, UsageError
from ...text import quoted
from ..destinations import check_extra, check_target
from ..options import IMAGES, MODEL, OUTPUT, SPEED, VERDICT, Output, Several, argument, option
from ..output import ascii_only, console_for
from ..progress import progress_line
from . import AS_FOR_A_CHECK, Call, takes


@takes(
    "quiet",
    "debug",
    quiet={"help": "No progress."},
    source=argument("open_clip, timm, torchvision, transformers, torch, or onnx.", "SOURCE", show_default=True),
    name=argument(
        "The model's name in that library. torch: package.module:factory. onnx: a file, which gets a contract if it "
        "has none, and is converted to --precision.",
        "NAME",
        show_default=True,
    ),
    out=option("The ONNX file to write.", "MODEL.onnx", OUTPUT, "--out", "-o"),
    weights=option("The library's name of the pretrained weights, or a checkpoint file.", "NAME", MODEL),
    precision=option("fp32, fp16, int8-dynamic or int8-qdq.", "PRECISION", MODEL),
    form=option(
        "int8-qdq: write this form: uint8-weights, 7-bit-weights, int8-weights, 16-bit-activations, float-ends or "
        "matmul-only. Default: the smallest that keeps the vectors and the outlier features.",
        "FORM",
        MODEL,
    ),
    random_weights=option("Allow an untrained model; the file says so.", None, MODEL),
    preprocess=option(
        "How pixels become inputs: clip, imagenet or a JSON file. For torch, and for an ONNX file without a contract. "
        "Default: that of the library, or of a sidecar next to the file.",
        "WHICH",
        MODEL,
    ),
    original=option(
        "onnx: the exported file that another tool made NAME from. Its contract is taken over, if both files make the "
        "same of the same pixels.",
        "FILE",
        MODEL,
    ),
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
        "Photos on which the file is compared with the original, for int8-qdq at least 32. Default: those of "
        "--calibration-images if they are at least 48, else the bundled ones.",
        "PATH",
        IMAGES,
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
    form: str | None = None,
    random_weights: bool = False,
    preprocess: str | None = None,
    original: Path | None = None,
    head: str | None = None,
    zero_shot: str | None = None,
    templates: str | None = None,
    matched_to: str | None = None,
    parity_images: str | None = None,
    calibration_images: str | None = None,
) -> int:
    """Write a model as ONNX, and compare it with the original.

    The file contains its preprocessing and the names of its tensors.
    """
    from ....exporters.contract import INT8
    from ....exporters.forms import NoFormError
    from ....exporters.photos import (
        CALIBRATION_PHOTOS,
        FEWEST_CALIBRATION_PHOTOS,
        FEWEST_MEASURED_PHOTOS,
        MEASURED_PHOTOS,
        PARITY_PHOTOS,
    )
    from ....exporters.proof import int8_sums
    from ....exporters.run import run
    from ...core.progress import tell_stage
    from ..changed_files import read_pair
    from ..int8_forms import show_forms
    from ..plain_files import option_name, read_plain, stated_preprocessing

    preprocessing = None
    if preprocess is not None:
        preprocessing = stated_preprocessing(preprocess)
    calibrated = precision == "int8-qdq" or calibration_images is not None
    calibration: list[Path] = []
    if calibrated:
        calibration = _photo_files("calibration", calibration_images, CALIBRATION_PHOTOS + MEASURED_PHOTOS)
    enough = len(calibration) >= FEWEST_MEASURED_PHOTOS + FEWEST_CALIBRATION_PHOTOS
    if enough and parity_images is None:
        photos = calibration[:MEASURED_PHOTOS]
    else:
        most = MEASURED_PHOTOS if calibrated else 8
        if original is not None:
            most = FEWEST_MEASURED_PHOTOS
        photos = _photo_files("parity", parity_images, most)
    others = f"-o {quoted(out)}"
    if precision != "fp32":
        others = f"--precision {quoted(precision)} {others}"
    try:
        with progress_line(call.settings.quiet) as progress:
            record = run(
                source,
                name,
                out,
                weights=weights,
                precision=precision,
                form=form,
                random_weights=random_weights,
                preprocessing=preprocessing,
                stated_by=option_name(preprocess),
                original=original,
                read_pair=read_pair,
                read_plain=partial(read_plain, option=preprocess, again=others),
                head=head,
                zero_shot=zero_shot,
                templates=templates,
                matched_to=matched_to,
                photos=photos,
                calibration=calibration,
                tell=partial(tell_stage, progress),
            )
    except NoFormError as error:
        show_forms(error.forms, "")
        raise
    if record.forms:
        show_forms(record.forms, record.form)
    if precision in INT8:
        share = int8_sums()
        sums = "exact" if share == 1 else f"saturate ({share:.2f} of the exact sum)"
        sys.stdout.write(f"int8 sums on this CPU: {sums}\n")
    parity = record.parity
    where = calibration_images or "bundled"
    if record.calibrated_on:
        sys.stdout.write(f"ranges of activations from {record.calibrated_on} photos ({where})\n")
    precision = f"{record.precision} {record.form}".strip()
    outputs = ", ".join(record.outputs)
    size_mb = record.size_bytes / 1e6
    sys.stdout.write(f"wrote {out} ({size_mb:.1f} MB, {precision}, outputs {outputs})\n")
    if original is not None:
        sys.stdout.write(f"contract taken over from {original}\n")
    batches = ", ".join(map(str, record.batches))
    sys.stdout.write(
        f"parity with the original at batch {batches} on {PARITY_PHOTOS} photos: "
        f"max absolute {parity.max_abs:.2g}, max relative {parity.max_rel:.2g}, min cosine {parity.min_cosine:.7f}\n"
    )
    return 0


def _photo_files(purpose: str, spec: str | None, limit: int) -> list[Path]:
    """Return image files for an exporter."""
    from ...outside.image_sets.open import open_images

    entries = open_images(spec, limit=limit).entries
    if not all(entry.origin for entry in entries):
        raise UsageError(
            f"{spec}: {purpose} photos lie inside one file; they must be image files", f"--{purpose}-images FOLDER"
        )
    return [Path(entry.origin) for entry in entries]


def _refuse_folder(keep: Path, names: Iterable[str]) -> None:
    """Refuse a folder for the demo's models that is a file, or has them already."""
    if keep.exists() and not keep.is_dir():
        raise UsageError(f"{keep}: --keep is a file; it must be a folder", "robustcheck demo --keep robustcheck-demo")
    for name in names:
        file = keep / f"{name}.onnx"
        if file.exists():
            raise UsageError(
                f"{file}: file exists already; the demo does not replace it", "robustcheck demo --keep ANOTHER_FOLDER"
            )


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
    from ...core.progress import tell_stage
    from ...questions import check as pipeline
    from ...questions.demo import EXPECTED, NAMES, copy_models, excerpt, next_steps, train, write
    from ...report.terminal import Pen, Trimmed
    from ...report.words import verdict_text

    if keep is not None:
        _refuse_folder(keep, NAMES)
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
            if call.settings.quiet == 1:
                verdict = verdict_text(report.verdict)
                console.print(pen.say(f"{name} encoder: {verdict}"))
            elif not call.settings.quiet:
                console.print(Trimmed(excerpt(name, report, pen)))
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


@takes(
    "images",
    "max_images",
    "max_bad",
    "seed",
    "device",
    "provider_option",
    "batch_size",
    "color",
    "timeout",
    "max_memory",
    "quiet",
    "debug",
    images=AS_FOR_A_CHECK,
    quiet={"help": "No progress."},
    timeout={"help": "Longest time that the measurement of one model may take. Default: no limit."},
    suite=option("The models: a suite file (TOML), or paper, the packaged one.", "SUITE", MODEL),
    out=option("The profile to write.", "PROFILE.json", OUTPUT, "--out"),
    results=option(
        "Keep what was measured in this table; later runs continue from it. Default: OUT with .results.jsonl.",
        "TABLE.jsonl",
        OUTPUT,
    ),
    plan=option("Show what would be done and how large it is; do nothing.", None, OUTPUT),
    from_evidence=option(
        "Fit to a table of results, without any model. May be given several times.", "TABLE.jsonl", MODEL
    ),
    from_reference=option("Write the default profile again, from the packaged reference table.", None, MODEL),
    tensor=option(
        "What to fit to: representation, pooled, or auto (the one that separates robust models from others better).",
        "TENSOR",
        MODEL,
    ),
    profile_id=option("The profile's id. Default: the name of OUT.", "ID", OUTPUT, "--id"),
    allow_missing=option("Write a profile even if models failed; it says which.", None, VERDICT),
    engine=option("local: processes of this machine. ray: a Ray cluster (extra `ray`).", "ENGINE", SPEED),
    workers=option("Worker processes. Default: 1; with ray, one for each device.", "N", SPEED, min=1),
    ray_address=option(
        "HOST:PORT of a running Ray cluster, or auto. Default: a cluster on this machine.", "ADDRESS", SPEED
    ),
    cache=option("Folder for exported models. Default: robustcheck/exports in your cache folder.", "FOLDER", OUTPUT),
)
def calibrate(
    call: Call,
    suite: str | None = None,
    out: Path | None = None,
    results: Path | None = None,
    plan: bool = False,
    from_evidence: Several = None,
    from_reference: bool = False,
    tensor: Literal["auto", "representation", "pooled"] = "auto",
    profile_id: str = "",
    allow_missing: bool = False,
    engine: Literal["local", "ray"] = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    cache: Path | None = None,
    output: Output = "terminal",
) -> int:
    """Fit thresholds to a suite of models, or to earlier measurements."""
    from ....thresholds.calibrate import default_profile
    from ....thresholds.tables import table_text
    from ...questions.calibrate.task import CalibrationSettings, cache_folder, check_labels
    from ..calibrate import fitted, measured, measured_before, open_named, refuse_failed, show_plan, write_profile

    if (suite is not None or bool(from_evidence)) == from_reference:
        raise UsageError(
            "--suite, --from-evidence and --from-reference: one is needed, and only --suite and --from-evidence go "
            "together",
            "robustcheck calibrate --suite paper --images photos/ --plan",
        )
    if plan and (from_evidence or from_reference):
        raise UsageError("--plan is for a suite; tables need no model", "robustcheck calibrate --suite paper --plan")
    if out is None and not plan:
        raise UsageError("--out is missing; a calibration writes a profile", "--out profile.json")
    if out is not None:
        reads = [Path(name) for name in [*(from_evidence or ()), suite] if name]
        check_extra("--out", out, reads, (), "p.json")
    target = out or Path("plan")
    color = call.settings.color
    if from_reference:
        return write_profile(default_profile(table_text()), {}, target, output, color)
    name = profile_id or target.stem
    opened = open_named(suite, name)
    table = results or (out and out.with_suffix(".results.jsonl"))
    if from_evidence:
        table = Path(from_evidence[0])
        rows, failed = measured_before(from_evidence, opened)
    else:
        assert opened is not None
        settings = CalibrationSettings(
            options=call.settings.options,
            cache=cache or cache_folder(),
            engine=engine,
            workers=workers,
            address=ray_address,
            limits=replace(call.settings, timeout=call.settings.timeout or 0).limits,  # by default it may take long
        )
        if plan:
            return show_plan(opened, settings, table, partial(call.show, output))
        assert table is not None
        check_labels(opened)
        if table.resolve() == target.resolve():
            raise UsageError(f"{out}: --results and --out are one file; they must be two", "leave out --results")
        check_target(table, [Path(suite or "")], is_own=Path.is_file)  # `open_table` refuses what is not a table
        rows, failed = measured(opened, settings, table, call.settings.quiet)
    refuse_failed(failed, target, table, allow_missing)
    profile = fitted(rows, name, tensor, failed, opened)
    return write_profile(profile, failed, target, output, color)
