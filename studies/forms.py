"""Writes one planted encoder in every form that people have, and runs the real command on each: results/forms.md.

python studies/forms.py [--only PATTERN] [--keep FOLDER] [--no-page]

Exit code 1 if any form ends otherwise than is right for it. --only: the forms whose name the regular expression finds;
the page keeps its other rows then. --keep: the files stay in FOLDER. Needs the extra `export` and the group `bench`.
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
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime as ort
from planted import ends, exports, hub, layouts, negatives, optimised, precisions, written
from planted.encoder import PLANTED_FEATURE
from planted.form import Form

from robustcheck_onnx.checker.core.runtime.devices import cpu_name, int8_sums
from robustcheck_onnx.thresholds import profile

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "forms.md"
ROWS = PAGE.with_suffix(".json")
COMMAND = Path(sys.executable).parent / "robustcheck"
KINDS: dict[str, ModuleType] = {
    "exporters, opsets, inputs": exports,
    "precisions": precisions,
    "simplifiers and optimisers": optimised,
    "ways to write a graph down": written,
    "heads, tails, projections": ends,
    "inputs and outputs as libraries give them": layouts,
    "repositories of a hub": hub,
    "what must not pass": negatives,
}
LIMIT_S = 120  # for one check; most take one or two seconds
WORKERS = 2
PLANTED_Z = -11.2  # SD: mean over images of the planted feature of the plain form
Z_TOLERANCE = 0.2  # of it: int8 with LayerNorm in plain operators moves it by 17 %, another network by 6 %
MESSAGE_CHARACTERS = 600
PACKAGES = ("onnxruntime-gpu", "onnx", "torch", "transformers", "numpy")
START, END = "<!-- table -->\n", "<!-- end of table -->\n"
COLUMNS = ("form", "what was done", "tensor that was read", "end", "verdict", "reasons or message", "s", "right?")
EXCEPTIONS = "what passes in fp32 and not in this form"
INT8 = "int8 by both arithmetics"
INT8_COLUMNS = (
    *("form", "verdict, this CPU", "reasons, this CPU", "z, this CPU"),
    *("verdict, exact sums", "reasons, exact sums", "z, exact sums", "agree?"),
)
SAID = ("verdict", "tensor", "end", "reasons", "message", "planted_z", "seconds")


@dataclass(frozen=True)
class Row:
    """What the command said about one form."""

    kind: str
    form: Form
    verdict: str
    """PASS, WARN, "exit N" for an error, "no end", "not made" or "left out" """
    tensor: str = ""
    end: str = ""
    reasons: tuple[str, ...] = ()
    message: str = ""
    planted_z: float | None = None
    """where the planted feature lies, SD. None where it is not a persistent outlier feature of the right width"""
    seconds: float = 0.0
    exact: Row | None = None
    """what the command says with `--arithmetic exact`; None where the form is not int8"""

    @property
    def wrong(self) -> str:
        """What is not as it should be; "" where all is."""
        form = self.form
        if self.verdict == "left out":
            return ""
        if self.verdict not in form.expected:
            return f"{self.verdict}, not {' or '.join(form.expected)}"
        if self.verdict == "WARN" and not form.reasons <= set(self.reasons):
            return f"not among the reasons: {', '.join(sorted(form.reasons - set(self.reasons)))}"
        if self.verdict.startswith("exit") and not re.search(form.says, self.message):
            return f"the message lacks {form.says!r}"
        if self.verdict == "PASS" and (self.planted_z is None or abs(self.planted_z / PLANTED_Z - 1) > Z_TOLERANCE):
            return "it does not rest on the planted feature"
        return ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of the table, in the order of `COLUMNS`."""
        why = f"yes: {self.form.why}" if self.form.why and self.verdict != "PASS" else "yes"
        right = f"**no**: {self.wrong}" if self.wrong else why
        said = ", ".join(self.reasons) or self.message
        return (
            self.form.name, self.form.done, self.tensor, self.end, self.verdict, said, f"{self.seconds:.1f}", right,
        )  # fmt: skip

    def record(self) -> dict[str, object]:
        """The row as JSON has it."""
        form = {name: getattr(self.form, name) for name in ("name", "done", "expected", "why")}
        exact = None if self.exact is None else self.exact.said
        return {"kind": self.kind, **form, **self.said, "exact": exact, "wrong": self.wrong}

    @property
    def said(self) -> dict[str, object]:
        """What the command said, as JSON has it."""
        return {name: getattr(self, name) for name in SAID}

    @property
    def answer(self) -> tuple[str, str, str]:
        """The cells of one arithmetic."""
        z = "" if self.planted_z is None else f"{self.planted_z:.3f}"
        return self.verdict, ", ".join(self.reasons), z

    @property
    def agreement(self) -> str:
        """Whether exact int8 sums give the same verdict and reasons; empty where the form is not int8."""
        if self.exact is None:
            return ""
        if self.exact.verdict.startswith("exit"):
            return f"without an answer by exact sums: {self.exact.message}"
        same = (self.verdict, self.reasons) == (self.exact.verdict, self.exact.reasons)
        return "agree" if same else "**differ**"


def check(row: Row, model: Path) -> Row:
    """Run the command on a form's file, or folder, and on an int8 form by exact sums as well."""
    here, is_int8 = ask(row, model)
    if not is_int8:
        return here
    exact, _ = ask(row, model, "--arithmetic", "exact")
    return replace(here, exact=exact)


def ask(row: Row, model: Path, *options: str) -> tuple[Row, bool]:
    """Run the command once, and take down what it says and whether it takes the form for int8."""
    report = model.parent / "report.json"
    more = [argument.format(folder=model.parent) for argument in row.form.arguments]
    call: list[str | Path] = [COMMAND, "check", model, "-o", f"json={report}", "--isolated", "--device", "cpu"]
    call += [*more, *options]
    start = time.perf_counter()
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return replace(row, verdict="no end", seconds=float(LIMIT_S)), False
    row = replace(row, seconds=round(time.perf_counter() - start, 2))
    if done.returncode not in (0, 1):
        message = " ".join(done.stderr.replace(str(model.parent), "…").split())
        message = message[max(message.find("error: "), 0) :]  # progress of a slow machine comes first
        return replace(row, verdict=f"exit {done.returncode}", message=message[:MESSAGE_CHARACTERS]), False
    values = json.loads(report.read_text(encoding="utf-8"))
    facts, statistics = values["evidence"]["model"], values["evidence"]["statistics"]
    outliers = {f["index"]: f["mean_z"] for f in statistics["features"] if f["persistent"]}
    answered = replace(
        row,
        verdict=values["verdict"]["verdict"],
        tensor=f"{facts['tensor']} ({facts['rule']}, {facts['pool']})",
        end=facts["ends_in"],
        reasons=tuple(reason["id"] for reason in values["verdict"]["reasons"]),
        planted_z=outliers.get(PLANTED_FEATURE) if statistics["n_features"] == row.form.features else None,
    )
    return answered, values["evidence"]["execution"]["precision"] == "int8"


def rows(chosen: Iterable[tuple[str, Form]], folder: Path) -> Iterator[Row]:
    """Make the forms one after the other, and check them beside that with `WORKERS` processes at once."""
    with ThreadPoolExecutor(WORKERS) as pool:
        waiting: list[Future[Row]] = []
        for index, (kind, form) in enumerate(chosen):
            place = folder / f"{index:03}"
            place.mkdir()
            row, model = made(kind, form, place)
            waiting.append(pool.submit(replace, row) if model is None else pool.submit(check, row, model))
            while len(waiting) > 2 * WORKERS:
                yield waiting.pop(0).result()
        yield from (row.result() for row in waiting)


def made(kind: str, form: Form, folder: Path) -> tuple[Row, Path | None]:
    """Write a form's files; None where that was not possible, and the row says why."""
    row = Row(kind, form, "not made")
    if missing := form.missing():
        return replace(row, verdict="left out", message=f"{missing} is not installed"), None
    try:
        model = form.make(folder) or folder / "model.onnx"
    except Exception as error:  # noqa: BLE001 # a form that its tool can't make any more must be seen, not end the run
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return replace(row, message=message[:MESSAGE_CHARACTERS]), None
    if form.preprocessing is not None:
        text = form.preprocessing.model_dump_json()
        model.with_suffix(".robustcheck.json").write_text(text, encoding="utf-8")
    return row, model


def tables(table: list[Row]) -> str:
    """The counts, the exceptions, one table a kind of form, and one of int8 by both arithmetics."""
    counts = Counter(row.verdict for row in table)
    wrong = [row for row in table if row.wrong]
    parts = [
        f"{len(table)} forms, profile {profile.load().id}: "
        + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        + ". "
    ]
    parts.append(f"Not as they should be: {len(wrong) or 'none'}.\n\n")
    sums = f"{cpu_name()}, whose int8 sums {int8_sums().words}"
    parts.append(f"**The CPU of these tables** is {sums}; ONNX Runtime {ort.__version__}.\n")
    kinds = {kind: [row for row in table if row.kind == kind] for kind in dict.fromkeys(row.kind for row in table)}
    right = [row for row in table if not row.wrong and row.verdict not in ("PASS", "left out")]
    kinds = {EXCEPTIONS: [row for row in right if KINDS[row.kind] is not negatives]} | kinds
    for kind, listed in kinds.items():
        parts.append(f"\n## {kind[0].upper()}{kind[1:]}\n\n" + line(COLUMNS) + "|---" * len(COLUMNS) + "|\n")
        parts += [line(row.cells) for row in listed]
    return "".join(parts) + int8_section(table)


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(re.sub(r"([|<$*_\\])(?!\*)", r"\\\1", cell) for cell in cells) + " |\n"


def int8_section(table: list[Row]) -> str:
    """The table of the int8 forms, each by this machine's arithmetic and by exact int8 sums."""
    both = [(row, row.exact) for row in table if row.exact is not None]
    shifts = [abs(exact.planted_z / row.planted_z - 1) for row, exact in both if exact.planted_z and row.planted_z]
    largest = max(shifts, default=0.0)
    moved = f"Exact sums move z by {100 * largest:.2g} % at most." if largest else "Where both answer, z is the same."
    counts = Counter(row.agreement.partition(":")[0].strip("*") for row, _ in both)
    parts = [
        f"\n## {INT8}\n\nEach form that `robustcheck check` takes for int8 ran twice: as this CPU computes, and with "
        "`--arithmetic exact`. They agree where verdict and reasons are the same. z is where the planted feature lies, "
        "in SD; it is empty where that feature is not a persistent outlier feature.\n\n"
        f"{len(both)} forms: " + ", ".join(f"{n} {answer}" for answer, n in counts.most_common()) + ". "
        f"{moved}\n\n",
        line(INT8_COLUMNS) + "|---" * len(INT8_COLUMNS) + "|\n",
    ]
    parts += [line((row.form.name, *row.answer, *exact.answer, row.agreement)) for row, exact in both]
    return "".join(parts)


def machine() -> dict[str, object]:
    """What the forms were made and checked with."""
    sums = int8_sums().model_dump()
    named = {"cpu": cpu_name(), "int8_sums": sums, "cores": len(os.sched_getaffinity(0))}
    return {**named, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def write(table: list[Row]) -> None:
    """Write the tables into the page, and all rows into studies/results/forms.json."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(before + tables(table) + after, encoding="utf-8")
    values = {"machine": machine(), "profile": profile.load().id, "rows": [row.record() for row in table]}
    ROWS.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def with_others(table: list[Row], chosen: Iterable[tuple[str, Form]]) -> list[Row]:
    """Add the rows of the forms that did not run this time, as studies/results/forms.json has them."""
    values = json.loads(ROWS.read_text(encoding="utf-8"))
    ran_with = values["machine"], values["profile"]
    assert ran_with == (machine(), profile.load().id), f"the other rows are by {ran_with}; make the whole page"
    records = {record["name"]: record for record in values["rows"]}
    new = {row.form.name: row for row in table}
    return [new.get(form.name) or read(kind, form, records[form.name]) for kind, form in chosen]


def read(kind: str, form: Form, record: dict[str, Any]) -> Row:
    """Read a row of studies/results/forms.json."""

    def row(said: dict[str, Any]) -> Row:
        values = {name: said[name] for name in SAID}
        return Row(kind, form, **values | {"reasons": tuple(said["reasons"])})

    exact = None if record["exact"] is None else row(record["exact"])
    return replace(row(record), exact=exact)


def main(only: str, keep: Path | None, *, page: bool) -> int:
    """Make, check, print and write; 1 if any form is not as it should be."""
    chosen = [(kind, form) for kind, module in KINDS.items() for form in module.forms()]
    twice = [name for name, n in Counter(form.name for _, form in chosen).items() if n > 1]
    assert not twice, f"two forms of one name: {twice}"
    table = []
    with tempfile.TemporaryDirectory() as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for row in rows([(kind, form) for kind, form in chosen if re.search(only, form.name)], folder):
            table.append(row)
            print(f"{'✗' if row.wrong else ' '} {' | '.join(row.cells)} | z {row.planted_z}", flush=True)
    if page:
        write(with_others(table, chosen) if only else table)
    wrong = [f"{row.form.name}: {row.wrong}" for row in table if row.wrong]
    print(f"{len(table)} forms; not as they should be: {len(wrong)}", *wrong, sep="\n  ")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="PATTERN")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    parser.add_argument("--no-page", action="store_true")
    options = parser.parse_args()
    sys.exit(main(options.only, options.keep, page=not options.no_page))
