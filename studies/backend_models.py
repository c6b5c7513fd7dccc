"""Runs `robustcheck inspect` on every ONNX file of the onnx package's backend tests, and counts the exit codes.

python studies/backend_models.py [--limit N]

The files: those that lie in the package (onnx/backend/test/data), and one for each node test, which the package makes.
None is an image model of a person, but each is a valid ONNX file: `inspect` must answer (0) or refuse in a sentence (2,
3), in seconds. The verb runs in forked children, each of which starts the child that reads the file, so that a file
takes a second or two; a sample of files goes through the command itself, to show that it ends alike. Prints a table,
writes studies/results/backend_models.json. Exit code 1 if a file ended with another code, by a signal or not at all, or
the sample differs.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import onnx
import onnx.backend.test
from forked import forked

from robustcheck_onnx.checker import cli

COMMAND = Path(sys.executable).parent / "robustcheck"
RESULTS = Path(__file__).parent / "results" / "backend_models.json"
LIMIT_S = 20
SAMPLE, SLOWEST, SHOWN = 20, 10, 3
ANSWERS = ("0", "2", "3")


@dataclass(frozen=True)
class Answer:
    """How `inspect` ended on a file.

    ended: the exit code, "timeout", or "signal N". message: the error's line on stderr, without the file's name.
    """

    name: str
    ended: str
    seconds: float
    message: str = ""


def stored_files() -> list[tuple[str, Path]]:
    """The files in the package: a name and a path each."""
    data = Path(onnx.backend.test.__file__).parent / "data"
    return [(str(path.relative_to(data)), path) for path in sorted(data.rglob("*.onnx"))]


def made_files(folder: Path) -> list[tuple[str, Path]]:
    """Write the model of every node test into `folder`: a name and a path each."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overflows in the numbers that the tests expect
        cases = collect_testcases(None)
    out = []
    for case in cases:
        path = folder / f"{case.name}.onnx"
        assert case.model is not None
        onnx.save(case.model, path)
        out.append((f"node/{case.name}", path))
    return out


def inspect(name: str, path: Path, errors: Path) -> Answer:
    """Run the verb in a child; `errors` is a scratch file for its stderr."""
    ended = forked(partial(_verb, path, errors), LIMIT_S)
    code = ended.died or ("raised" if ended.error else str(ended.value))
    return Answer(name, code, round(ended.seconds, 3), ended.error or _said(errors, path))


def inspect_by_command(name: str, path: Path) -> Answer:
    """Run the real command."""
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [COMMAND, "inspect", path], capture_output=True, text=True, check=False, timeout=LIMIT_S + 10
        )
    except subprocess.TimeoutExpired:
        return Answer(name, "timeout", LIMIT_S + 10)
    code = str(done.returncode) if done.returncode >= 0 else f"signal {-done.returncode}"
    return Answer(name, code, round(time.perf_counter() - start, 3))


def kind(message: str) -> str:
    """The rule that a message states (behind its first semicolon), else the message, without names in quotes."""
    parts = message.removeprefix("error: ").split("; ")
    return re.sub(r"'[^']*'|`[^`]*`", "'…'", parts[1] if len(parts) > 1 else parts[0])[:90]


def table(answers: list[Answer]) -> str:
    """Markdown: exit codes with the commonest messages, what must not be, and the slowest."""
    lines = ["| exit code | files | commonest messages |", "|---|---|---|"]
    for code, n in collections.Counter(answer.ended for answer in answers).most_common():
        kinds = collections.Counter(kind(answer.message) for answer in answers if answer.ended == code)
        shown = "; ".join(f"{text} ({count})" for text, count in kinds.most_common(SHOWN) if text)
        lines.append(f"| {code} | {n} | {shown} |")
    bad = [answer for answer in answers if answer.ended not in ANSWERS]
    lines += ["", f"Neither answered nor refused: {len(bad) or 'none'}"]
    lines += [f"- {answer.name}: {answer.ended} {answer.message}" for answer in bad]
    slow = sorted(answers, key=lambda answer: -answer.seconds)[:SLOWEST]
    lines += ["", "Slowest: " + ", ".join(f"{answer.name} {answer.seconds:.2f} s" for answer in slow)]
    return "\n".join(lines)


def main() -> int:
    """Inspect all files, print the table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, help="only so many files, drawn at random")
    given = parser.parse_args()
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="backend-") as name:
        folder = Path(name)
        files = stored_files() + made_files(folder)
        if given.limit:
            files = draw.sample(files, min(given.limit, len(files)))
        answers = [inspect(name, path, folder / "stderr") for name, path in files]
        by_name = {answer.name: answer.ended for answer in answers}
        sample = [inspect_by_command(*file) for file in draw.sample(files, min(SAMPLE, len(files)))]
    differ = [f"{a.name}: {by_name[a.name]}, by the command {a.ended}" for a in sample if by_name[a.name] != a.ended]
    print(f"onnx {onnx.__version__}: {len(files)} files\n\n{table(answers)}\n")
    print(f"Of {len(sample)} files, the command itself ends otherwise on: {'; '.join(differ) or 'none'}")
    RESULTS.parent.mkdir(exist_ok=True)
    content = {"onnx": onnx.__version__, "differ": differ, "answers": [asdict(answer) for answer in answers]}
    RESULTS.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if differ or any(answer.ended not in ANSWERS for answer in answers) else 0


def _verb(path: Path, errors: Path) -> int:
    with errors.open("w", encoding="utf-8") as stream, contextlib.redirect_stderr(stream):
        return cli.main(["inspect", str(path)])


def _said(errors: Path, path: Path) -> str:
    text = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    return next((line for line in text.splitlines() if line.startswith("error: ")), "").replace(f"{path}: ", "")


if __name__ == "__main__":
    sys.exit(main())
