"""Small faults in rooms that mutation testing does not cover, and which test finds each.

`python tests/faults.py [NUMBERS] [--marks 'not long']` puts the faults of faults.json one after the other into the tree
it stands in, runs the tests of the room's folder and of those that depend on it until one fails, prints what found it
as a line of JSON, and puts the file back. A fault is found again by its function and its lines, in another file, too;
one whose lines are gone is told as gone.

They were drawn at a62dd49 in proportion to the rooms' nodes, with seed 26; 61 to 63, the first of seed 27 in their
room, took the places of 42, 46 and 47, whose code is gone, 64 that of 3, and 10 that of one which changed nothing.
Places and lines follow the code where it moved. `found_before` is the test that found a fault at a62dd49, null where
those asked (for two minutes: the nearest of its room and of two folders more) did not.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parent.parent
ASKED: Final = {  # the folders of tests that are not the room's own alone
    "forms": ("report",), "settings": ("cli",), "storage": ("storage", "images", "report"),
    "exporters": ("exporters", "model"), "calibrate": ("calibrate", "thresholds"), "wall": ("measure",),
}  # fmt: skip
CAP_S: Final = 1800.0  # for one fault
LAST: Final = ("project/test_structure.py", "cli", "whole")  # of every room


def find(fault: dict[str, Any]) -> Path | None:
    """Find the file that holds the fault's function with its lines: its own, or the one that they moved to."""
    own: Path = ROOT / fault["file"]
    for path in (own, *(path for top in ("checker", "exporters") for path in sorted((ROOT / top).rglob("*.py")))):
        source = path.read_text(encoding="utf-8") if path.is_file() else ""
        if source.count(fault["before"]) == 1 and f"def {fault['function'].rpartition('.')[2]}(" in source:
            return path
    return None


def run(fault: dict[str, Any], marks: str) -> dict[str, Any]:
    """Put one fault in, ask folder after folder, and put the file back."""
    path, result = find(fault), {"number": fault["number"], "caught_by": None}
    if path is None:
        return result | {"is_gone": True}
    content, times, end_s = path.read_bytes(), path.stat(), time.monotonic() + CAP_S
    try:
        path.write_text(content.decode().replace(fault["before"], fault["after"]), encoding="utf-8")
        for folder in dict.fromkeys((*ASKED.get(fault["room"], (fault["room"],)), *LAST)):
            place = ROOT / "tests" / folder
            result["caught_by"] = ask(place, marks, max(5.0, end_s - time.monotonic()))
            if result["caught_by"] is not None:
                return result
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return result


def ask(tests: Path, marks: str, left_s: float) -> str | None:
    """Run tests until one fails; return its name, "time" if they took too long, None if all passed."""
    command = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=no"]
    with subprocess.Popen(
        [*command, "-m", marks, str(tests)], cwd=ROOT, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            out = process.communicate(timeout=left_s)[0]
        except subprocess.TimeoutExpired:
            return "time"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode in {0, 5}:  # all passed; none was selected
        return None
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", out, re.MULTILINE)
    if failed is None:
        sys.exit(f"pytest ended with {process.returncode}: {out[-500:]}")
    return failed[1]


def main() -> None:
    """Run the faults that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, help="of faults to run; all, if none is given")
    parser.add_argument("--marks", default="not long", help="as -m of pytest")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the file is put back
    for fault in json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8")):
        if not options.numbers or fault["number"] in options.numbers:
            sys.stdout.write(json.dumps(run(fault, options.marks)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
