"""The command line: the app and its verbs. With `cli_*.py` the only code that prints, exits or knows every room.

`robustcheck model.onnx` is the check itself; other verbs are sub-commands. Results go to stdout, everything
else to stderr. Imports are made where they are used, so that `--help` starts fast.

Verbs that fill a module of their own are functions of `cli_<name>.py`, which imports `cli_parts` and
`cli_options` and no more before it is called; OTHER VERBS below lists them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from robustcheck_onnx.checker import (
    cli_cache,
    cli_calibrate,
    cli_check,
    cli_compare,
    cli_config,
    cli_demo,
    cli_mlflow,
    cli_process,
    cli_profiles,
    cli_scan,
    cli_shift,
    cli_verify,
)
from robustcheck_onnx.checker.cli_options import Color, Debug, Model, Output, Pool, PreprocessOption, Tensor
from robustcheck_onnx.checker.cli_parts import console_for, one_of, print_report
from robustcheck_onnx.checker.cli_process import EXIT_CODES
from robustcheck_onnx.checker.errors import UsageError

VERDICT_CODES = "Exit codes: 0 PASS · 1 WARN · 2 usage · 3 could not assess · 4 environment · 70 internal error. "
app = typer.Typer(
    name="robustcheck",
    help="Deployment gate for vision encoders: looks for the outlier features that indicate robustness to "
    "distribution shift, on in-distribution photos, in any ONNX file.\n\n"
    "`robustcheck MODEL.onnx` is short for `robustcheck check MODEL.onnx`. A folder or file with the name of a command "
    "needs the long form, or `./NAME`.",
    epilog=f"{VERDICT_CODES}Only 0 lets a release through.",
    add_completion=True,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        sys.stdout.write(f"robustcheck {version('robustcheck-onnx')}\n")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# ------------------------------------------------------------------------------------------------ commands


@app.command(
    epilog="Example: robustcheck export open_clip ViT-B-32 --weights openai -o model.onnx\n\n"
    "Example: robustcheck export torch mypackage.models:make --preprocessing preprocessing.json -o model.onnx\n\n"
    "Example: robustcheck export onnx model.onnx --precision int8-qdq --calibration-images photos/ -o int8.onnx\n\n"
    "Exit codes: 0 written, and it agrees with the original · 2 usage · 3 not exported · 4 environment."
)
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


@app.command(epilog="Example: robustcheck inspect model.onnx")
def inspect(
    model: Model,
    tensor: Tensor = None,
    pool: Pool = None,
    preprocess: PreprocessOption = None,
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show what would be measured and why: tensor, alternatives, head, preprocessing, opset, sizes."""
    import json

    from robustcheck_onnx.checker import graph, report_inspect, sidecar

    opened = graph.open_model(model, tensor=tensor, pool=pool)
    found = sidecar.find_preprocessing(
        model, preprocess, opened.contract.preprocessing if opened.contract else None, opened.image_input.size
    )
    if output == "json":
        sys.stdout.write(json.dumps(report_inspect.inspect_json(opened, found.origins), indent=2) + "\n")
    else:
        print_report(
            lambda only_ascii: report_inspect.render_inspect(opened, found.origins, ascii_only=only_ascii), color
        )
    return 0


@app.command(
    epilog="Example: robustcheck doctor\n\n"
    "Exit codes: 0 nothing is broken · 2 usage · 4 something is, and what to type stands beside it."
)
def doctor(
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Explain the environment: ONNX Runtime wheels, execution providers, CUDA, GPU, versions, and what to fix."""
    import json

    from robustcheck_onnx.checker import doctor as diagnosis
    from robustcheck_onnx.checker import report_inspect

    findings = diagnosis.diagnose()
    if output == "json":
        sys.stdout.write(json.dumps(report_inspect.doctor_json(findings), indent=2) + "\n")
    else:
        print_report(lambda only_ascii: report_inspect.render_doctor(findings, ascii_only=only_ascii), color)
    return 4 if any(finding.status == "fail" for finding in findings) else 0


@app.command(epilog="Example: robustcheck explain rectified")
def explain(
    topic: Annotated[str, typer.Argument(help="A reason id, exit-codes, or reasons.")] = "reasons",
    debug: Debug = False,
) -> int:
    """Explain a reason or the exit codes."""
    import difflib
    import textwrap

    from robustcheck_onnx.checker.reasons import RULES

    if topic == "exit-codes":
        sys.stdout.write("".join(f"{code:>4}  {text}\n" for code, text in EXIT_CODES.items()))
        sys.stdout.write("      Only 0 lets a release through.\n")
    elif topic == "reasons":
        column = max(map(len, RULES))
        sys.stdout.write("".join(f"{name:<{column}}  {rule.title}\n" for name, rule in RULES.items()))
    elif topic in RULES:
        rule = RULES[topic]
        width = min(max(console_for().width, 40), 100)
        text = textwrap.fill(rule.explanation, width, break_on_hyphens=False)
        step = textwrap.fill("Next step: " + rule.next_step, width, break_on_hyphens=False)
        sys.stdout.write(f"{topic}: {rule.title}\n\n{text}\n\n{step}\n")
    else:
        near = difflib.get_close_matches(topic, [*RULES, "exit-codes", "reasons"], 1)
        raise UsageError(
            f"topic is {topic!r}; it must be a reason id, exit-codes or reasons",
            f"robustcheck explain {near[0] if near else 'reasons'}",
        )
    return 0


@app.command(epilog="Example: robustcheck reference ViT-B-32/openai")
def reference(
    name: Annotated[str, typer.Argument(help="A checkpoint, a model or a measured set; without it, the table.")] = "",
    text: Annotated[str, typer.Option("--filter", help="Words that must all occur in a row's names.")] = "",
    group: Annotated[str | None, typer.Option(help="Rows of this group only.")] = None,
    sort: Annotated[str, typer.Option(help="Column to sort by: mean, model, weights, imagenet, v2, ….")] = "mean",
    reverse: Annotated[bool, typer.Option("--reverse", help="The other way round.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="All rows, not only zero-shot and measured models.")
    ] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="terminal, json or csv.")] = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show published effective robustness and measured statistics of known checkpoints."""
    from robustcheck_onnx.checker import reference_rows, report_reference

    one_of("--output", output, ("terminal", "json", "csv"))
    if name and (text or group or reverse or everything or sort != "mean"):
        raise UsageError(
            f"NAME is {name!r}; --filter, --group, --sort, --reverse and --all are for the table",
            f"robustcheck reference {name}",
        )
    rows = (
        reference_rows.named(name)
        if name
        else reference_rows.select(text, group, sort, reverse=reverse, everything=everything)
    )
    if output == "terminal":
        render = report_reference.render_named if name else report_reference.render_table
        print_report(lambda only_ascii: render(rows, ascii_only=only_ascii), color)
    else:
        sys.stdout.write(report_reference.to_json(rows) if output == "json" else report_reference.to_csv(rows))
    return 0


@app.command(epilog="Example: robustcheck schema")
def schema(debug: Debug = False) -> int:
    """Print the JSON Schema of the JSON report."""
    from robustcheck_onnx.checker.report import json_schema

    sys.stdout.write(json_schema())
    return 0


# --------------------------------------------------------------------------------------------- OTHER VERBS

app.command(
    epilog="Example: robustcheck model.onnx --images photos/ -o json=report.json\n\n"
    "Example: robustcheck check models/ --images photos/ -o terminal -o 'html={model}.html'\n\n"
    f"{VERDICT_CODES}"
)(cli_check.check)
app.command(
    epilog="Example: robustcheck compare int8.onnx fp32.onnx --images photos/\n\n"
    "Example: robustcheck compare v2.onnx --images photos/ --baseline v1.json\n\n"
    f"{VERDICT_CODES}"
)(cli_compare.compare)
app.command(epilog="Example: robustcheck shift model.onnx --in photos/ --shifted sketches/")(cli_shift.shift)
app.command(epilog="Example: robustcheck scan model.onnx --images photos/")(cli_scan.scan)
app.command(
    epilog="Example: robustcheck calibrate --suite paper --images photos/ --plan\n\n"
    "Exit codes: 0 the profile is written · 2 usage · 3 a model failed: no profile, unless --allow-missing · "
    "4 environment."
)(cli_calibrate.calibrate)
app.command(epilog="Example: robustcheck demo")(cli_demo.demo)
app.command(epilog="Example: robustcheck verify report.json model.onnx --images photos/")(cli_verify.verify)
app.command(epilog="Example: robustcheck sign report.json model.onnx --key key.pem")(cli_verify.sign)
app.command(epilog="Example: robustcheck init")(cli_config.init)
app.add_typer(cli_profiles.profiles, name="profiles")
app.add_typer(cli_cache.cache, name="cache")
app.add_typer(cli_mlflow.mlflow, name="mlflow")


# ---------------------------------------------------------------------------------------------------- main


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code, as cli_process.run does."""
    return cli_process.run(app, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
