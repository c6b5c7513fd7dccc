"""Words of other tools, by what they are here."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Final


def _by_word(words_of: Mapping[str, str]) -> dict[str, str]:
    return {word: ours for ours, words in words_of.items() for word in words.split()}


OPTIONS: Final = _by_word(
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
VERBS: Final = _by_word(
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
    """Return what a word means here, else the word that is spelled almost like it, else None."""
    near = get_close_matches(word.lower(), known, 1, 0.75)
    return synonyms.get(word.lower(), near[0] if near else None)
