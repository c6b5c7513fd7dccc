"""Exports many architectures with random weights, and asks of each: right tensor, how fast, which end, what verdict.

python studies/sweep.py [--only WORD …] [--library NAME] [--no-check] [--resume] [--page]

Needs the extra `export`, no network and no weights. Every model has a child of its own with a time limit; its record
is a line of studies/results/sweep.jsonl. --resume leaves out what has one. --only: architectures or families with a
word in their name. --no-check: only open and run. --page: only write results/families.json and .md from the
records there are; a whole run writes them, too. Exit code 1 if a graph never ended, a tensor was wrong, or a check
ended with neither 0 nor 1.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import families_page
import look
import open_clip  # noqa: F401 # once, for all children
import plain_export
import timm  # noqa: F401
import torchvision
from forked import forked

HERE = Path(__file__).parent
COMMAND = Path(sys.executable).parent / "robustcheck"
RECORDS = HERE / "results" / "sweep.jsonl"
LIBRARIES = ("timm", "open_clip", "torchvision")
EXPORT_S, OPEN_S, RUN_S, CHECK_S = 600, 60, 300, 300  # limits, s
OTHER_NAME = "output"  # an open_clip export is opened once more with this name of its output
FAMILY = re.compile(r"(wide_)?[a-z]+")  # of torchvision's names: the first word
IMAGES = 8  # of the check: it has to get through, its statistics mean nothing


@dataclass(frozen=True)
class Architecture:
    """What is exported: a library's name for it, its family, and what its constructor gets."""

    library: str
    family: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)


def architectures() -> Iterator[Architecture]:
    """Every architecture of architectures.toml and of torchvision's classifiers, libraries in turn."""
    table = tomllib.loads((HERE / "architectures.toml").read_text(encoding="utf-8"))
    options = table["options"]
    for library in ("timm", "open_clip"):
        for family, names in table[library].items():
            yield from (Architecture(library, family, name, options.get(name, {})) for name in names)
    for name in torchvision.models.list_models(module=torchvision.models):
        matched = FAMILY.match(name)
        assert matched is not None
        yield Architecture("torchvision", matched[0], name)


def measure(architecture: Architecture, *, checked: bool = True) -> dict[str, Any]:
    """Export, open, run and check one architecture; the record says where it ended, if early."""
    a = architecture
    record: dict[str, Any] = {"library": a.library, "family": a.family, "name": a.name, "options": a.options}
    with tempfile.TemporaryDirectory(prefix="sweep-") as name:
        folder = Path(name)
        exported = forked(partial(plain_export.export, a.library, a.name, a.options, folder), EXPORT_S)
        if not isinstance(exported.value, dict):
            return record | {"outcome": "not exported", "error": exported.error or exported.died}
        record |= exported.value
        opened = forked(partial(look.look, folder), OPEN_S)
        if not isinstance(opened.value, dict):
            return record | {"outcome": "hang" if opened.died == "timeout" else "crash"} | _fault(opened)
        record |= opened.value
        if a.library == "open_clip":
            other = forked(partial(look.look, folder, OTHER_NAME), OPEN_S)
            record["as_output"] = other.value if isinstance(other.value, dict) else _fault(other)
        record["outcome"] = "refused"
        if "refused" not in record:
            compared = forked(partial(look.compare, folder), RUN_S)
            record |= compared.value if isinstance(compared.value, dict) else _fault(compared)
            wrong = "assumed another tensor" if record["obstacles"][:1] == [look.ASSUMED] else "wrong tensor"
            record["outcome"] = "right" if record.get("difference", 1) < look.SAME else wrong
        if record["outcome"] != "right":
            found = forked(partial(look.find_wanted, folder), RUN_S)
            record |= found.value if isinstance(found.value, dict) else {"find_wanted": _fault(found)}
        return record | (check(folder / "model.onnx") if checked else {})


def check(path: Path) -> dict[str, Any]:
    """Run the real command on a few of the bundled photos: exit code, reasons, seconds."""
    words = ["check", path, "--preprocess", "imagenet", "--max-images", IMAGES, "--device", "cpu", "-o", "json"]
    start = time.perf_counter()
    try:
        done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True, check=False, timeout=CHECK_S)
    except subprocess.TimeoutExpired:
        return {"check_code": "timeout"}
    facts: dict[str, Any] = {"check_code": done.returncode, "check_s": round(time.perf_counter() - start, 1)}
    if done.returncode in (0, 1):
        return facts | {"reasons": [reason["id"] for reason in json.loads(done.stdout)["verdict"]["reasons"]]}
    return facts | {"check_error": done.stderr.replace(f"{path}: ", "").strip()[-400:]}


def _fault(ended: Any) -> dict[str, Any]:
    return {"error": ended.error or ended.died}


def failed(record: dict[str, Any]) -> bool:
    """Whether a record is one that must not be: a hang, a crash, a wrong tensor, an exit code that is not an answer."""
    answered = record.get("check_code", 0) in (0, 1) or record.get("refused") == record.get("check_code")
    return record["outcome"] in ("hang", "crash", "wrong tensor") or not answered


def show(record: dict[str, Any]) -> str:
    """One line of the run."""
    parts = [f"{record['library']} {record['name']}:", record["outcome"]]
    parts += [str(record[key]) for key in ("rule", "pool", "ends_in", "error", "message") if key in record]
    parts += [f"{key} {record[key]}" for key in ("difference", "export_s", "open_s", "check_code") if key in record]
    return "  ".join(parts)


def main() -> int:
    """Measure what was asked for, and write the page after a whole run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--library", choices=LIBRARIES)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    wanted = [
        a
        for a in architectures()
        if given.library in (None, a.library)
        and (not given.only or any(word in a.name or word in a.family for word in given.only))
    ]
    RECORDS.parent.mkdir(exist_ok=True)
    records = _read() if given.resume or given.page or len(wanted) < len(list(architectures())) else {}
    done = set(records) if given.resume else set()
    for a in [] if given.page else wanted:
        if (a.library, a.name) in done:
            continue
        record = measure(a, checked=not given.no_check)
        records[a.library, a.name] = record
        print(show(record), flush=True)
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records.values())
        RECORDS.write_text(text, encoding="utf-8")
    if given.page or len(wanted) == len(list(architectures())):
        families_page.write(list(records.values()), len(list(architectures())))
    bad = [record for record in records.values() if failed(record)]
    print(f"{len(records)} architectures; {len(bad)} that must not be: {', '.join(r['name'] for r in bad) or 'none'}")
    return 1 if bad else 0


def _read() -> dict[tuple[str, str], dict[str, Any]]:
    """The records there are, of architectures that are still listed."""
    lines = RECORDS.read_text(encoding="utf-8").splitlines() if RECORDS.exists() else []
    listed = {(a.library, a.name) for a in architectures()}
    records = {(r["library"], r["name"]): r for r in map(json.loads, lines)}
    return {key: record for key, record in records.items() if key in listed}


if __name__ == "__main__":
    sys.exit(main())
