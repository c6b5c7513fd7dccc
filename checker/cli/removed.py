"""What earlier versions had: each removed word, with what to do instead. CHANGELOG holds the same lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import page

_CACHE: Final = "leave it out: every check measures, and nothing is kept between checks"
_RAY: Final = "leave it out: a check runs on one machine; `robustcheck calibrate --engine ray` uses a cluster"
_PLUG_IN: Final = "run the other signal as a step of its own, whose exit code can stop the release"
_LOG: Final = "robustcheck mlflow log report.json"
_GATE: Final = "robustcheck mlflow gate NAME VERSION report.json --alias ALIAS"
_CONFIDENCE: Final = "leave it out: ATC and DoC take the model's own confidences"
VERBS: Final[Mapping[str, str]] = {
    "cache": "nothing is kept between checks; the folder robustcheck in your cache folder can be deleted",
    "help": "robustcheck --help, or robustcheck COMMAND --help",
    "reference": f"read the tables of {page('published')}",
    "schema": "read report.schema.json in the folder checker/report of the installed package, or on the site",
    "version": "robustcheck --version; robustcheck doctor -o json for the packages it measures with",
    "profiles diff": "compare the output of robustcheck profiles show PROFILE -o json",
    "profiles seal": "fit a profile with robustcheck calibrate; a profile that was changed by hand is not accepted",
    "profiles validate": "robustcheck profiles show PROFILE, which refuses a profile that is not valid",
}
"""by verb, as it was typed"""
OPTIONS: Final[Mapping[str, str]] = {
    "--alias": _GATE,
    "--beside": "leave it out: agreement on the line is no longer predicted",
    "--detector": _PLUG_IN,
    "--engine": _RAY,
    "--exit-zero": "--fail-on never",
    "--export": "robustcheck export LIBRARY NAME -o model.onnx, then robustcheck model.onnx",
    "--log": _LOG,
    "--no-cache": _CACHE,
    "--ray-address": _RAY,
    "--temperature": _CONFIDENCE,
    "--workers": _RAY,
}
"""by option of a verb that no longer has it"""
FORMS: Final[Mapping[str, str]] = {
    "csv": "-o json, or a template of your own: -o template=FILE.j2",
    "evalresults": "-o json, or a template of your own: -o template=FILE.j2",
}
KEYS: Final[Mapping[str, str]] = {option.removeprefix("--"): line for option, line in OPTIONS.items()}
"""by key of a settings file"""
VARIABLES: Final[Mapping[str, str]] = {
    "ROBUSTCHECK_" + name: line
    for name, line in {
        "CACHE_DIR": _CACHE,
        "DETECTOR": _PLUG_IN,
        "ENGINE": _RAY,
        "NO_CACHE": _CACHE,
        "RAY_ADDRESS": _RAY,
        "WORKERS": _RAY,
    }.items()
}


def refuse(kind: str, word: str, lines: Mapping[str, str]) -> None:
    """Raise UsageError if a word is in a table of removed words.

    kind: what the word is, with the place where it was read, such as "robustcheck.toml: key".
    """
    if word in lines:
        raise UsageError(f"{kind} {word} was removed", lines[word])
