"""Writes one planted encoder in every form that people have, and runs the real command on each: results/forms.md.

python studies/forms.py [--only PATTERN] [--keep FOLDER] [--no-page]

Exit code 1 if any form ends otherwise than is right for it. --only: the forms whose name the regular expression finds;
only their rows of the page are written then. --keep: the files stay in FOLDER. Needs the extra `export` and the group
`bench`.
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

from planted import ends, exports, hub, layouts, negatives, optimised, precisions, written
from planted.encoder import PLANTED_FEATURE
from planted.form import Form

from robustcheck_onnx.checker.core.runtime.devices import cpu_name
from robustcheck_onnx.thresholds import profile

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "studies" / "results" / "forms.md"
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
        said = {key: value for key, value in vars(self).items() if key not in {"kind", "form"}}
        return {"kind": self.kind, **form, **said, "wrong": self.wrong}


def check(row: Row, model: Path) -> Row:
    """Run the command on a form's file, or folder, and take down what it says."""
    report = model.parent / "report.json"
    more = [argument.format(folder=model.parent) for argument in row.form.arguments]
    call: list[str | Path] = [COMMAND, "check", model, "-o", f"json={report}", "--isolated", "--device", "cpu", *more]
    start = time.perf_counter()
    try:
        done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return replace(row, verdict="no end", seconds=float(LIMIT_S))
    row = replace(row, seconds=round(time.perf_counter() - start, 2))
    if done.returncode not in (0, 1):
        message = " ".join(done.stderr.replace(str(model.parent), "…").split())
        message = message[max(message.find("error: "), 0) :]  # progress of a slow machine comes first
        return replace(row, verdict=f"exit {done.returncode}", message=message[:MESSAGE_CHARACTERS])
    values = json.loads(report.read_text(encoding="utf-8"))
    facts, statistics = values["evidence"]["model"], values["evidence"]["statistics"]
    outliers = {f["index"]: f["mean_z"] for f in statistics["features"] if f["persistent"]}
    return replace(
        row,
        verdict=values["verdict"]["verdict"],
        tensor=f"{facts['tensor']} ({facts['rule']}, {facts['pool']})",
        end=facts["ends_in"],
        reasons=tuple(reason["id"] for reason in values["verdict"]["reasons"]),
        planted_z=outliers.get(PLANTED_FEATURE) if statistics["n_features"] == row.form.features else None,
    )


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
    """The counts, the exceptions, and one table a kind of form."""
    counts = Counter(row.verdict for row in table)
    wrong = [row for row in table if row.wrong]
    parts = [
        f"{len(table)} forms, profile {profile.load().id}: "
        + ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
        + ". "
    ]
    parts.append(f"Not as they should be: {len(wrong) or 'none'}.\n")
    kinds = {kind: [row for row in table if row.kind == kind] for kind in dict.fromkeys(row.kind for row in table)}
    right = [row for row in table if not row.wrong and row.verdict not in ("PASS", "left out")]
    kinds = {EXCEPTIONS: [row for row in right if KINDS[row.kind] is not negatives]} | kinds
    for kind, listed in kinds.items():
        parts.append(f"\n## {kind[0].upper()}{kind[1:]}\n\n" + line(COLUMNS) + "|---" * len(COLUMNS) + "|\n")
        parts += [line(row.cells) for row in listed]
    return "".join(parts)


def line(cells: Iterable[str]) -> str:
    """A line of a table in Markdown."""
    return "| " + " | ".join(re.sub(r"([|<$*_\\])(?!\*)", r"\\\1", cell) for cell in cells) + " |\n"


def write(table: list[Row]) -> None:
    """Write the tables into the page, and all rows into studies/results/forms.json."""
    page = PAGE.read_text(encoding="utf-8")
    before, after = page[: page.index(START) + len(START)], page[page.index(END) :]
    PAGE.write_text(before + tables(table) + after, encoding="utf-8")
    machine = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    machine |= {name: version(name) for name in PACKAGES}
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine, "rows": [row.record() for row in table]}, indent=1)
    (results / "forms.json").write_text(text + "\n", encoding="utf-8")


def write_rows(table: list[Row]) -> None:
    """Put the rows of some forms into the tables of the page; the counts stay, so no verdict may have changed."""
    made = {line((row.form.name,)).rstrip(): row for row in table}
    page = PAGE.read_text(encoding="utf-8").splitlines(keepends=True)
    for index, old in enumerate(page):
        row = next((row for start, row in made.items() if old.startswith(start)), None)
        if row is not None:
            page[index] = line(row.cells)
            assert f"| {row.verdict} |" in old, f"{row.form.name}: the verdict has changed; make the whole page"
    PAGE.write_text("".join(page), encoding="utf-8")


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
        (write_rows if only else write)(table)
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
