"""The words that this command does not know. They are earlier versions', and other tools'."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import page

_CACHE: Final = "leave it out: every check measures, and nothing is kept between checks"
_RAY: Final = "leave it out: a check runs on one machine; `robustcheck calibrate --engine ray` uses a cluster"
_PLUG_IN: Final = "run the other signal as a step of its own, whose exit code can stop the release"
_LOG: Final = "robustcheck mlflow log report.json"
_GATE: Final = "robustcheck mlflow gate NAME VERSION report.json --alias ALIAS"
_CONFIDENCE: Final = "leave it out: ATC and DoC take the model's own confidences"
REMOVED_VERBS: Final[Mapping[str, str]] = {
    "cache": "nothing is kept between checks; the folder robustcheck in your cache folder can be deleted",
    "help": "robustcheck --help, or robustcheck COMMAND --help",
    "reference": f"read the tables of {page('data')}",
    "schema": "read report.schema.json in the folder checker/report of the installed package, or on the site",
    "version": "robustcheck --version; robustcheck doctor -o json for the packages it measures with",
    "profiles diff": "compare the output of robustcheck profiles show PROFILE -o json",
    "profiles seal": "fit a profile with robustcheck calibrate; a profile that was changed by hand is not accepted",
    "profiles validate": "robustcheck profiles show PROFILE, which refuses a profile that is not valid",
}
"""by verb, as it was typed"""
REMOVED_OPTIONS: Final[Mapping[str, str]] = {
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
REMOVED_FORMS: Final[Mapping[str, str]] = {
    "csv": "-o json, or a template of your own: -o template=FILE.j2",
    "evalresults": "-o json, or a template of your own: -o template=FILE.j2",
}
REMOVED_KEYS: Final[Mapping[str, str]] = {option.removeprefix("--"): line for option, line in REMOVED_OPTIONS.items()}
"""by key of a settings file"""
REMOVED_VARIABLES: Final[Mapping[str, str]] = {
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


def refuse_removed(kind: str, word: str, lines: Mapping[str, str]) -> None:
    """Refuse a removed word. A table lists them; raises UsageError.

    kind: what the word is, with the place where it was read, such as "robustcheck.toml: key".
    """
    if word in lines:
        raise UsageError(f"{kind} {word} was removed", lines[word])


def _by_word(words_of: Mapping[str, str]) -> dict[str, str]:
    return {word: ours for ours, words in words_of.items() for word in words.split()}


OTHER_OPTIONS: Final = _by_word(
    {
        "": "--model --models --model-path --onnx --onnx-path -m --reference --ref --base --teacher --candidate",
        "--images": "--data --dataset --datasets --data-dir --data-path --dir --folder --image-dir --img-dir --input "
        "--inputs --photos --pictures --samples-dir --source --path --val -d -i",
        "--preprocess": "--preprocessing --transform --transforms --normalize --normalise --normalization",
        "robustcheck explain preprocessing": "--size --input-size --image-size --img-size --imgsz --resize --crop "
        "--input-shape --shape --mean --std --layout",
        "--tensor": "--layer --layers --node --feature --features --embedding --output-name --hook -l",
        "--max-images": "--limit --n --num-images --n-images --num-samples --n-samples --max-samples --samples --count "
        "--subset -n",
        "--max-bad": "--max-errors --tolerate",
        "--batch-size": "--batch --batchsize --bs -b",
        "--device": "--provider --providers --execution-provider --ep --backend --accelerator",
        "--device cuda": "--gpu --gpus --cuda --use-gpu",
        "--device cpu": "--cpu --no-gpu --no-cuda",
        "--device tensorrt": "--trt --tensorrt",
        "--output": "--format --fmt --out --output-format --output-file --report --save",
        "-o html": "--html",
        "-o junit": "--junit --junitxml --junit-xml --xml",
        "-o markdown": "--markdown --md",
        "-o sarif": "--sarif",
        "--fail-on never": "--no-fail --soft-fail --warn-only --allow-fail --ignore-errors",
        "--thresholds": "--min-score --cutoff --profile",
        "--config": "--config-file --conf --cfg --settings -c",
        "--waivers": "--ignore --allow --allowlist --skip --exclude",
        "--verbose": "--verbosity --log-level --loglevel",
        "--quiet": "--silent",
        "--isolated": "--no-config",
    }
)
"""by an option that is typed: ours (with its value, where theirs takes none), a command, or "" for an argument"""
OTHER_VERBS: Final = _by_word(
    {
        "check": "run test tests validate analyze analyse evaluate eval assess score gate measure audit predict infer",
        "compare": "diff cmp regress versus vs",
        "inspect": "info show summary summarize describe view print cat",
        "export --help": "convert to-onnx onnx",
        "export onnx -o int8.onnx --precision int8-dynamic": "quantize quantise quant",
        "explain": "why man",
        "scan": "layers",
        "calibrate": "fit train tune",
        "profiles list": "thresholds",
        "demo": "example examples quickstart try",
        "doctor": "env status diagnose providers devices",
        "init": "config configure setup new",
        "mlflow --help": "log register",
    }
)
"""by a command that is typed: ours, with what else its line needs"""


def nearest(word: str, known: Mapping[str, object] | list[str], synonyms: Mapping[str, str]) -> str | None:
    """Return the word that a typed one means.

    It is what the word means here, else the word that is spelled almost like it, else None.
    """
    near = get_close_matches(word.lower(), known, 1, 0.75)
    return synonyms.get(word.lower(), near[0] if near else None)
