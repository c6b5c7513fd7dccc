"""Writes one planted encoder in every form that people have, runs the real command on each: docs/forms.md.

python benchmarks/forms.py [--only PATTERN] [--keep FOLDER] [--no-page]

Exit code 1 if any form ends otherwise than is right for it. --only: those whose name the regular expression finds; no
page is written then. --keep: the files stay in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from planted import ends, exports, layouts, negatives, optimised, precisions, written
from planted.encoder import FEATURES, PLANTED_FEATURE
from planted.form import Form

from robustcheck_onnx.checker.runtime.device import cpu_name

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "forms.md"
COMMAND = Path(sys.executable).parent / "robustcheck"
KINDS = {
    "exporters, opsets, inputs": exports,
    "precisions": precisions,
    "simplifiers and optimisers": optimised,
    "ways to write a graph down": written,
    "heads, tails, projections": ends,
    "layouts of libraries and hubs": layouts,
    "what must not pass": negatives,
}
LIMIT_S = 120  # for one check; most take one or two seconds
WORKERS = 2
PLAIN_Z = -12.1  # SD: where the planted feature lies in the plain form
Z_TOLERANCE = 0.1  # of it: four-bit weights move it by 3 %
EXITS = {0: "PASS", 1: "WARN"}
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
COLUMNS = ("form", "what was done", "tensor that was read", "end", "verdict", "reasons or message", "s", "right?")


@dataclass(frozen=True)
class Row:
    """What one form is, and what the command said about it."""

    kind: str
    form: str
    done: str
    expected: str
    why: str
    verdict: str
    """PASS, WARN, "exit N" of an error, "no end", "not made" or "left out" """
    tensor: str = ""
    end: str = ""
    reasons: tuple[str, ...] = ()
    message: str = ""
    planted_z: float | None = None
    seconds: float = 0.0
    wrong: str = ""
    """what is not as it should be; empty where all is"""


def check(form: Form, kind: str, model: Path) -> Row:
    """Run the command on a form's file and compare what it says with what is right."""
    report = model.parent / "report.json"
    more = [argument.format(folder=model.parent) for argument in form.arguments]
    call = [COMMAND, "check", model, "-o", f"json={report}", "--no-cache", "--isolated", "--device", "cpu", *more]
    start = time.perf_counter()
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return judged(form, Row(kind, *_words(form), verdict="no end", seconds=LIMIT_S))
    seconds = round(time.perf_counter() - start, 2)
    verdict = EXITS.get(done.returncode, f"exit {done.returncode}")
    if verdict not in EXITS.values():
        message = " ".join(done.stderr.replace(str(model), model.name).replace(str(model.parent), "…").split())
        return judged(form, Row(kind, *_words(form), verdict, message=message[:600], seconds=seconds))
    values = json.loads(report.read_text(encoding="utf-8"))
    facts, statistics = values["evidence"]["model"], values["evidence"]["statistics"]
    z = next((f["mean_z"] for f in statistics["features"] if f["index"] == PLANTED_FEATURE and f["persistent"]), None)
    row = Row(
        kind,
        *_words(form),
        verdict=values["verdict"]["verdict"],
        tensor=f"{facts['tensor']} ({facts['rule']}, {facts['pool']})",
        end=facts["ends_in"],
        reasons=tuple(reason["id"] for reason in values["verdict"]["reasons"]),
        planted_z=z if statistics["n_features"] == FEATURES else None,
        seconds=seconds,
    )
    return judged(form, row)


def _words(form: Form) -> tuple[str, str, str, str]:
    return form.name, form.done, " or ".join(form.expected), form.why


def judged(form: Form, row: Row) -> Row:
    """The row with what is wrong about it."""
    wrong = ""
    if row.verdict not in form.expected:
        wrong = f"{row.verdict}, not {row.expected}"
    elif row.verdict == "WARN" and not form.reasons <= set(row.reasons):
        wrong = f"not among the reasons: {', '.join(sorted(form.reasons - set(row.reasons)))}"
    elif row.verdict.startswith("exit") and not re.search(form.says, row.message):
        wrong = f"the message lacks {form.says!r}"
    elif row.verdict == "PASS" and form.planted_z and not _is_planted(row.planted_z):
        wrong = "PASS, but not on the planted feature"
    return Row(**{**asdict(row), "wrong": wrong})


def _is_planted(z: float | None) -> bool:
    return z is not None and abs(z / PLAIN_Z - 1) < Z_TOLERANCE


def rows(chosen: Iterable[tuple[str, Form]], folder: Path) -> Iterable[Row]:
    """Make and check the forms: made one after the other here, checked beside that by `WORKERS` processes."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: list[Future[Row] | Row] = []
        for index, (kind, form) in enumerate(chosen):
            place = folder / f"{index:03}"
            place.mkdir()
            waiting.append(_made(form, kind, place, pool))
            while len(waiting) > 2 * WORKERS:
                yield _result(waiting.pop(0))
        yield from map(_result, waiting)


def _result(row: Future[Row] | Row) -> Row:
    return row.result() if isinstance(row, Future) else row


def _made(form: Form, kind: str, folder: Path, pool: ThreadPoolExecutor) -> Future[Row] | Row:
    if missing := form.missing():
        return Row(kind, *_words(form), "left out", message=f"{missing} is not installed")
    try:
        model = form.make(folder) or folder / "model.onnx"
    except Exception as error:  # noqa: BLE001 # a form that its tool can't make any more must be seen, not end the run
        message = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        return judged(form, Row(kind, *_words(form), "not made", message=message))
    if form.preprocessing is not None:
        model.with_suffix(".robustcheck.json").write_text(form.preprocessing.model_dump_json(), encoding="utf-8")
    return pool.submit(check, form, kind, model)


def line(row: Row) -> str:
    """A line of the table."""
    right = f"**no**: {row.wrong}" if row.wrong else f"yes: {row.why}" if row.why else "yes"
    cells = (row.form, row.done, row.tensor, row.end, row.verdict, ", ".join(row.reasons) or row.message,
             f"{row.seconds:.1f}", right)  # fmt: skip
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |\n"


def tables(table: list[Row]) -> str:
    """The counts, and one table a kind of form."""
    counts = Counter(row.verdict for row in table)
    wrong = [row for row in table if row.wrong]
    parts = [f"{len(table)} forms: " + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common()) + ". "]
    parts.append(f"Not as they should be: {len(wrong) or 'none'}.\n")
    for kind in dict.fromkeys(row.kind for row in table):
        parts.append(f"\n## {kind[0].upper()}{kind[1:]}\n\n| " + " | ".join(COLUMNS) + " |\n")
        parts.append("|---" * len(COLUMNS) + "|\n")
        parts += [line(row) for row in table if row.kind == kind]
    return "".join(parts)


def write(table: list[Row]) -> None:
    """Write the table into the page, and everything into benchmarks/results/forms.json."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(before + tables(table) + after, encoding="utf-8")
    packages = ("onnxruntime-gpu", "onnx", "torch", "transformers", "numpy")
    machine = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    machine |= {name: version(name) for name in packages}
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine, "rows": [asdict(row) for row in table]}, indent=1)
    (results / "forms.json").write_text(text + "\n", encoding="utf-8")


def main(only: str, keep: Path | None, *, page: bool) -> int:
    """Make, check, print and write; 1 if any form is not as it should be."""
    chosen = [(kind, form) for kind, module in KINDS.items() for form in module.forms()]
    twice = [name for name, n in Counter(form.name for _, form in chosen).items() if n > 1]
    assert not twice, f"two forms of one name: {twice}"
    chosen = [(kind, form) for kind, form in chosen if re.search(only, form.name)]
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows(chosen, folder):
            table.append(row)
            print(f"{'  ' if not row.wrong else '✗ '}{row.form}: {row.verdict} {row.tensor} {row.end} "
                  f"{', '.join(row.reasons)}{row.message} z {row.planted_z} {row.seconds} s {row.wrong}", flush=True)  # fmt: skip
    if page and not only:
        write(table)
    wrong = [row.form for row in table if row.wrong]
    print(f"{len(table)} forms; not as they should be: {len(wrong)}", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", metavar="PATTERN")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--no-page", action="store_true")
    options = parser.parse_args()
    sys.exit(main(options.only, options.keep, page=not options.no_page))
