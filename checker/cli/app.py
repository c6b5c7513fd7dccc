"""Define the typer app: every verb with its examples and exit codes.

Results go to stdout, everything else to stderr. Modules import what is heavy inside functions, so that `--help` starts
fast.
"""

import sys
from typing import Annotated

import typer

from ..text import VERSION
from .help import Verbs
from .options import EVIDENCE, SET_UP, THRESHOLDS, UNDERSTAND, option
from .process import run
from .verbs import evidence, gates, look_up, make, questions

VERDICT_CODES = "Exit codes: 0 PASS | 1 WARN | 2 usage | 3 could not assess | 4 environment | 70 internal error. "
COMPARED = VERDICT_CODES.replace("0 PASS | 1 WARN", "0 what --require names holds (by default PASS) | 1 it does not")
INFORMATION = "Exit codes: 0 measured, which is not a PASS | 2 usage | 3 could not measure | 4 environment."
app = Verbs(
    name="robustcheck",
    help="Release gate for image encoders: checks an ONNX file for the outlier features of robust CLIP models.\n\n"
    "`robustcheck MODEL.onnx` is short for `robustcheck check MODEL.onnx`. A folder or file with the name of a command "
    "needs the long form, or `./NAME`.",
    epilog="Example: robustcheck demo\n\n"
    "Example: robustcheck model.onnx photos/\n\n"
    f"{VERDICT_CODES}Only 0 lets a release through.",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"robustcheck {VERSION}\n")
        raise typer.Exit


@app.callback()
def _group(
    version: Annotated[
        bool, option("Show the version.", None, None, "--version", "-V", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


# Panel by panel, in the order of `--help`: what is typed most comes first, in the panel that has no name here.
app.verb(
    "robustcheck model.onnx photos/ -o report.json",
    "robustcheck check models/ --images photos/ -o terminal -o 'html={model}.html'",
    "robustcheck check --strict --images photos/ -- model.onnx  # in a pipeline",
    codes=VERDICT_CODES,
)(gates.check)
app.verb(
    "robustcheck compare int8.onnx fp32.onnx --images photos/",
    "robustcheck compare v2.onnx --images photos/ --baseline v1.json",
    codes=COMPARED,
)(gates.compare)
app.verb("robustcheck inspect model.onnx")(look_up.inspect)
app.verb(
    "robustcheck export open_clip ViT-B-32 --weights openai -o model.onnx",
    "robustcheck export torch mypackage.models:make --preprocess preprocessing.json -o model.onnx",
    "robustcheck export onnx model.onnx --precision int8-qdq --calibration-images photos/ -o int8.onnx",
    codes="Exit codes: 0 written, and it agrees with the original | 2 usage | 3 not exported | 4 environment.",
)(make.export)
app.verb(
    "robustcheck verify report.json model.onnx --images photos/",
    codes="Exit codes: 0 all that was checked agrees, and the verdict is PASS, or the verdicts that a comparison "
    "required hold | 1 it agrees, but they do not hold, or nothing but the report supports them | 2 usage, or a report "
    "that is incomplete or of a newer robustcheck | 3 something differs: the report does not hold | 4 environment.",
)(evidence.verify)
app.verb("robustcheck explain one_sided", "robustcheck explain", "robustcheck explain exit-codes")(look_up.explain)
app.verb("robustcheck demo")(make.demo)
app.verb(
    "robustcheck doctor",
    codes="Exit codes: 0 nothing is broken | 2 usage | 4 something is; the report says what to type.",
)(look_up.doctor)
app.verb("robustcheck scan model.onnx --images photos/", panel=UNDERSTAND, codes=INFORMATION)(questions.scan)
app.verb(
    "robustcheck shift model.onnx --in photos/ --shifted sketches/",
    "robustcheck shift model.onnx --in photos/ --target new-photos/",
    panel=UNDERSTAND,
    codes=INFORMATION,
)(questions.shift)
app.verb(
    "robustcheck concepts model.onnx --concepts concepts/ -o html=concepts.html",
    panel=UNDERSTAND,
    codes=INFORMATION,
)(questions.concepts)
app.verb(
    "robustcheck directions model.onnx --images photos/",
    "robustcheck directions model.onnx --in photos/ --shifted sketches/ -o html=directions.html",
    "robustcheck directions encoder.onnx --head head.npy --images photos/",
    panel=UNDERSTAND,
    codes=INFORMATION,
)(questions.directions)
app.verb(
    "robustcheck calibrate --suite paper --images photos/ --plan",
    "robustcheck calibrate --suite mine.toml --images photos/ --out mine.json",
    panel=THRESHOLDS,
    codes="Exit codes: 0 the profile is written | 2 usage | 3 a model failed: no profile, unless --allow-missing | "
    "4 environment.",
)(make.calibrate)
app.add_typer(look_up.profiles, rich_help_panel=THRESHOLDS)
app.verb(
    "robustcheck sign report.json model.onnx --key key.pem",
    "robustcheck sign report.json model.onnx --keyless",
    panel=EVIDENCE,
    codes="Exit codes: as for robustcheck verify.",
)(evidence.sign)
app.add_typer(evidence.mlflow, rich_help_panel=EVIDENCE)
app.verb("robustcheck init", panel=SET_UP)(look_up.init)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code (see `process.run`)."""
    return run(app, sys.argv[1:] if argv is None else argv)
