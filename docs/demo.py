"""Show what the gate does on a real network; `make demo` runs it, and leaves the models and reports in `demo-out/`.

Ends with 0 only if each verdict is the expected one, with the expected reasons.
"""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import NamedTuple

FOLDER = Path("demo-out")
FACTORIES = "robustcheck_onnx.exporters.demo"
CLASSIFIER, OLD, NEW = (str(FOLDER / name) for name in ("classifier.onnx", "old.onnx", "new.onnx"))


class Step(NamedTuple):
    """A command, why it is run, and how it must end."""

    sentence: str
    words: list[str]
    report: str = ""
    """the name of the command's JSON report; "" where it makes a model"""
    verdict: str = ""
    reasons: tuple[str, ...] = ()


STEPS = [
    Step(
        "Write EfficientNet-Lite0, an ImageNet classifier with its real weights, as an ONNX file.",
        ["export", "torch", f"{FACTORIES}:efficientnet_lite0", "-o", CLASSIFIER],
    ),
    Step(
        "Write the old file: the same network with 512 mixed features, one of which was made an outlier feature.",
        ["export", "torch", f"{FACTORIES}:planted_outlier", "-o", OLD],
    ),
    Step(
        "Write the new file: the old one without that feature, as a bad finetuning might leave it.",
        ["export", "torch", f"{FACTORIES}:lost_outlier", "-o", NEW],
    ),
    Step(
        "Check the classifier. Expected: WARN, not_applicable. Its features come out of an activation and are hardly "
        "ever negative, so no threshold holds for them.",
        ["check", CLASSIFIER],
        "classifier.json",
        "WARN",
        ("one_sided", "too_weak", "not_persistent"),
    ),
    Step(
        "Check the old file. Expected: PASS. One of its features is far from all others in every photo.",
        ["check", OLD],
        "old.json",
        "PASS",
    ),
    Step(
        "Compare the new file with the old one. Expected: WARN, absent. The outlier feature is gone, which stops the "
        "release.",
        ["compare", NEW, OLD],
        "new.json",
        "WARN",
        ("too_weak", "not_persistent", "statistic_shrank", "outlier_feature_lost"),
    ),
]
EXIT_CODES = {"": 0, "PASS": 0, "WARN": 1}


def run(number: int, step: Step) -> None:
    """Run a step. Raises SystemExit: it did not end as expected."""
    words = ["robustcheck", *step.words]
    print(textwrap.fill(f"\n{number}/{len(STEPS)} {step.sentence}", 80, replace_whitespace=False))
    print(f"$ {' '.join(words)}", flush=True)
    report = FOLDER / step.report
    if step.report:
        words += ["-o", "terminal", "-o", f"json={report}"]
    code = subprocess.run([Path(sys.executable).with_name(words[0]), *words[1:]], check=False).returncode
    if code != EXIT_CODES[step.verdict]:
        sys.exit(f"error: step {number} ended with exit code {code}, not {EXIT_CODES[step.verdict]}")
    if not step.report:
        return
    verdict = json.loads(report.read_text(encoding="utf-8"))["verdict"]
    reasons = tuple(reason["id"] for reason in verdict["reasons"])
    if (verdict["verdict"], reasons) != (step.verdict, step.reasons):
        sys.exit(f"error: step {number} gave {verdict['verdict']} {reasons}, not {step.verdict} {step.reasons}")
    print(f"As expected: {step.verdict}")


def main() -> None:
    """Run the steps."""
    FOLDER.mkdir(exist_ok=True)
    for number, step in enumerate(STEPS, 1):
        run(number, step)
    print(f"\nThe old file passes, and the new one is stopped. Models and reports are in {FOLDER}/.")


if __name__ == "__main__":
    main()
