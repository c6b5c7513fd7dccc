"""The typer app: every verb with its example and exit codes. A verb is a function in `verbs/`.

Results go to stdout, everything else to stderr. Modules import what is heavy inside functions, so that `--help` starts
fast."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .process import importing_native, run
from .verbs import (
    calibrate,
    check,
    compare,
    demo,
    export,
    inspect,
    look_up,
    profiles,
    registry,
    scan,
    set_up,
    shift,
    verify,
)

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


# in the order of `--help`
app.command(
    epilog="Example: robustcheck export open_clip ViT-B-32 --weights openai -o model.onnx\n\n"
    "Example: robustcheck export torch mypackage.models:make --preprocessing preprocessing.json -o model.onnx\n\n"
    "Example: robustcheck export onnx model.onnx --precision int8-qdq --calibration-images photos/ -o int8.onnx\n\n"
    "Exit codes: 0 written, and it agrees with the original · 2 usage · 3 not exported · 4 environment."
)(export.export)
app.command(epilog="Example: robustcheck inspect model.onnx")(inspect.inspect)
app.command(
    epilog="Example: robustcheck doctor\n\n"
    "Exit codes: 0 nothing is broken · 2 usage · 4 something is, and what to type stands beside it."
)(inspect.doctor)
app.command(epilog="Example: robustcheck explain rectified")(look_up.explain)
app.command(epilog="Example: robustcheck reference ViT-B-32/openai")(look_up.reference)
app.command(epilog="Example: robustcheck schema")(look_up.schema)
app.command(
    epilog="Example: robustcheck model.onnx --images photos/ -o json=report.json\n\n"
    "Example: robustcheck check models/ --images photos/ -o terminal -o 'html={model}.html'\n\n"
    f"{VERDICT_CODES}"
)(importing_native(check.check))
app.command(
    epilog="Example: robustcheck compare int8.onnx fp32.onnx --images photos/\n\n"
    "Example: robustcheck compare v2.onnx --images photos/ --baseline v1.json\n\n"
    f"{VERDICT_CODES}"
)(importing_native(compare.compare))
app.command(epilog="Example: robustcheck shift model.onnx --in photos/ --shifted sketches/")(
    importing_native(shift.shift)
)
app.command(epilog="Example: robustcheck scan model.onnx --images photos/")(importing_native(scan.scan))
app.command(
    epilog="Example: robustcheck calibrate --suite paper --images photos/ --plan\n\n"
    "Exit codes: 0 the profile is written · 2 usage · 3 a model failed: no profile, unless --allow-missing · "
    "4 environment."
)(calibrate.calibrate)
app.command(epilog="Example: robustcheck demo")(demo.demo)
app.command(epilog="Example: robustcheck verify report.json model.onnx --images photos/")(
    importing_native(verify.verify)
)
app.command(epilog="Example: robustcheck sign report.json model.onnx --key key.pem")(verify.sign)
app.command(epilog="Example: robustcheck init")(set_up.init)
app.add_typer(profiles.profiles, name="profiles")
app.add_typer(set_up.cache, name="cache")
app.add_typer(registry.mlflow, name="mlflow")


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return the exit code, as `process.run` does."""
    return run(app, sys.argv[1:] if argv is None else argv)
