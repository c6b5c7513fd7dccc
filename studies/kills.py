"""Kills and signals at random moments of runs that replace earlier documents: what is left (results/kills.md).

    python studies/kills.py [--kills 200] [--signals 100] [--aimed 60] [--seed 1]

Every file must be, to the last byte, the earlier one, the one that an undisturbed run writes, or the error that
belongs there; a report may also be gone after a kill. Prints a table, on stderr what is wrong, and ends with 1 if
anything is. Needs Linux (/proc) and the extra `sign`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kills_runs import COMMAND, MODEL, SIGNATURE, TABLE, Files, Run, contents, execute, fill, prepare

from robustcheck_onnx.checker.cli.output import error_document
from robustcheck_onnx.checker.text import sha256_of
from robustcheck_onnx.checker.trust.verify import signature as signing
from robustcheck_onnx.checker.trust.verify.run import report_about
from robustcheck_onnx.thresholds import results

SETTLE_S = 5.0  # a child must be gone after it
BEYOND = 1.2  # the latest strike, as a share of an undisturbed run
AIM_S = 0.2  # of an aimed one, after the first file has changed
STOPS = {
    signal.SIGINT: (130, "interrupted (SIGINT); there is no verdict, and nothing half-written is left"),
    signal.SIGTERM: (143, "terminated (SIGTERM); there is no verdict, and nothing half-written is left"),
}


@dataclass(frozen=True)
class Blow:
    """A signal, to the process alone or to its whole group."""

    number: signal.Signals
    to_group: bool = False
    aim: str = ""
    """moment that it follows at once: the first document that is "gone", or the first "new" one; empty: any moment"""

    @property
    def name(self) -> str:
        words = {
            (signal.SIGKILL, False): "kill −9",
            (signal.SIGKILL, True): "kill −9 of the group",
            (signal.SIGINT, True): "SIGINT to the group (Ctrl-C)",
            (signal.SIGTERM, False): "SIGTERM",
        }[self.number, self.to_group]
        return words + {"": "", "gone": ", while it removes", "new": ", while it writes"}[self.aim]


@dataclass
class Row:
    """What the strikes of one kind left."""

    left: Counter[str] = field(default_factory=Counter)
    exits: Counter[int] = field(default_factory=Counter)
    untouched_until_s: float = 0.0
    """the latest strike that left every file as it was"""
    temporary: int = 0
    """strikes after which temporary files or folders were left"""
    faults: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------- one strike


def strike(run: Run, blow: Blow, after_s: float, row: Row) -> None:
    """Start a run over its earlier files, strike it, and note in the row what is left."""
    fill(run.earlier)
    errors = Path("../stderr.txt")
    with tempfile.TemporaryDirectory(prefix="kills-") as temporary:
        with errors.open("wb") as stderr, subprocess.Popen(
            [COMMAND, *run.words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            env=os.environ | {"TMPDIR": temporary}, start_new_session=True,
        ) as process:  # fmt: skip
            if blow.aim:
                wait_for(run, blow.aim, process)
            time.sleep(after_s)
            # nobody has waited for it: the number is still its own
            (os.killpg if blow.to_group else os.kill)(process.pid, blow.number)
            code = process.wait(60)
        faults = [f"process {pid} is left" for pid in survivors(temporary)]
        folders = len(list(Path(temporary).iterdir()))
    files = contents()
    extra = [name for name in files if name not in run.new]
    words = {name: word_of(run, name, files, blow.number) for name in run.new}
    if code == 1 and b"Fatal Python error: init_import_site" in errors.read_bytes():
        code = -blow.number  # Python had not begun with the command: it ends so itself, other than the system does
    left, found = judged(run, words, code, blow.number)
    faults += found
    if extra or folders:
        row.temporary += 1
        if blow.number != signal.SIGKILL or code == 0:
            faults.append(f"temporary files are left: {extra}, {folders} folders")
    row.exits[code] += 1
    if left == "as before" and not blow.aim:
        row.untouched_until_s = max(row.untouched_until_s, after_s)
    if run.name == "calibrate":
        execute(run.words)  # continues from the table
        if Path("profile.json").read_bytes() != run.new["profile.json"]:
            faults.append("the next run writes another profile")
    row.left[left] += 1
    row.faults += [f"{run.name}, {blow.name} after {after_s:.3f} s, exit code {code}: {fault}" for fault in faults]


def wait_for(run: Run, aim: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for the first document that is gone, or new; or for the end of the process."""
    earlier = {name: Path(name).stat().st_ino for name in run.forms}
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:  # its number stays its own
        for name, number in earlier.items():
            try:
                is_new = Path(name).stat().st_ino != number
            except FileNotFoundError:
                if aim == "gone":
                    return
                continue
            if is_new and aim == "new":
                return
        time.sleep(0.001)


def survivors(temporary: str) -> list[int]:
    """The processes with this folder for temporary files that are still there after `SETTLE_S`; at once if none is."""
    end, mark = time.monotonic() + SETTLE_S, f"TMPDIR={temporary}\0".encode()
    while (found := list(processes_with(mark))) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def processes_with(mark: bytes) -> Iterator[int]:
    """The processes in whose environment this stands."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes():
                yield int(path.parent.name)
        except OSError:  # it has ended, or is another user's
            continue


def word_of(run: Run, name: str, files: Files, number: signal.Signals) -> str:
    """What a file is: none, earlier, new, error; or half-written, which it must never be."""
    content = files.get(name)
    if content is None:
        return "none"
    if content == run.earlier.get(name):
        return "earlier"
    if name == SIGNATURE:
        return "new" if is_about(Path(name), Path("report.json")) else "about another document"
    if name == TABLE:
        return "new" if is_table(Path(name)) else "half-written"
    if content == run.new[name]:
        return "new"
    if (form := run.forms.get(name)) and number in STOPS:
        code, message = STOPS[number]
        if content == error_document(form, message, "", code, MODEL).encode():
            return "error"
    return "half-written"


def is_about(bundle: Path, report: Path) -> bool:
    """Whether the key has signed this very report."""
    try:
        payload = signing.signed_payload(bundle, Path("../key.pub"))
        about = signing.statement(report_about(report, Path(MODEL)), sha256_of(report.read_bytes()))
    except Exception as fault:  # noqa: BLE001 # whatever is wrong with it: it is not a signature of the report
        sys.stderr.write(f"{bundle}: {fault}\n")
        return False
    return not signing.differences(payload, about)


def is_table(path: Path) -> bool:
    """Whether a results table can be read; the line that a kill cut off is none of its rows."""
    try:
        results.read(path)
    except results.ResultsError:
        return False
    return True


def judged(run: Run, words: Mapping[str, str], code: int, number: signal.Signals) -> tuple[str, list[str]]:
    """What is left as a whole, and what is wrong with it."""
    faults = [f"{name} is {word}" for name, word in words.items() if word in ("half-written", "about another document")]
    may_be_gone = (SIGNATURE, TABLE, *run.forms)
    missing = [name for name, word in words.items() if word == "none" and name not in may_be_gone]
    faults += [f"{name} is gone" for name in missing]
    kinds = {words[name] for name in run.forms} or {word for name, word in words.items() if name in run.earlier}
    kinds -= {"earlier"} if run.name == "sign" and words[SIGNATURE] == "new" else set()  # its report never changes
    signature = words.get(SIGNATURE, "")
    is_new = kinds == {"new"} and signature in ("", "new")
    left = "written" if is_new else "part written" if "new" in kinds else "part removed" if "earlier" in kinds else ""
    if kinds == {"earlier"} and signature in ("", "earlier"):
        left = "as before"
    left = left or ("error" if kinds == {"error"} else "removed")
    if run.name == "check" and (signature, left) not in (
        ("earlier", "as before"),
        ("new", "written"),
        *(("none", other) for other in ("part removed", "removed", "part written", "error")),
    ):
        faults.append(f"the signature is {signature}, and the documents are {left}: {words}")
    if run.name == "sign" and signature == "none":
        faults.append("the earlier signature of the same report is gone")
    begun = {"error"} if run.forms else {"as before", "written"}
    if number == signal.SIGKILL:
        allowed = {-9: None, 0: {"written"}}
    else:  # before the command can answer, the system ends it
        allowed = {-number: {"as before"}, STOPS[number][0]: begun, 0: {"written"}}
    if code not in allowed or left not in (allowed[code] or {left}):
        faults.append(f"exit code {code}, and the files are {left}: {words}")
    return left, faults


# ----------------------------------------------------------------------------------------------- all of them


def shares(n: int, weights: Sequence[int]) -> list[int]:
    """n parted by weights, rounded up from the last one on; the first takes what is left.

    >>> shares(200, [120, 40, 14, 13, 13]), shares(4, [3, 1, 1, 1])
    ([120, 40, 14, 13, 13], [1, 1, 1, 1])
    """
    rest = [-(-n * weight // sum(weights)) for weight in weights[1:]]
    return [n - sum(rest), *rest]


def planned(runs: Sequence[Run], kills: int, signals: int, aimed: int) -> list[tuple[Run, Blow, int]]:
    """How often which run is struck by what."""
    kill, kill_group = Blow(signal.SIGKILL), Blow(signal.SIGKILL, to_group=True)
    stops = (Blow(signal.SIGINT, to_group=True), Blow(signal.SIGTERM))
    pairs = [(runs[0], kill), (runs[0], kill_group), *((run, kill) for run in runs[1:])]
    plan = [(*pair, n) for pair, n in zip(pairs, shares(kills, [120, 40, 14, 13, 13]), strict=True)]
    for stop, some in zip(stops, (signals - signals // 2, signals // 2), strict=True):
        plan += [(run, stop, n) for run, n in zip(runs, shares(some, [29, 7, 7, 7]), strict=True)]
    numbers = (signal.SIGKILL, signal.SIGTERM)
    aims = [(number, aim) for aim in ("gone", "new") for number in numbers]
    for (number, aim), some in zip(aims, shares(aimed, [1, 1, 2, 1]), strict=True):
        plan.append((runs[0], Blow(number, aim=aim), some))
    return [one for one in plan if one[2] > 0]


LEFT = ("as before", "part removed", "removed", "error", "part written", "written")


def main(words: Sequence[str] | None = None) -> int:
    """Strike, and print the table; 1 if a strike left what it must not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--aimed", type=int, default=60, help="kills and signals while a check removes or writes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(words)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here would be ignored there
    rng, faults, home = random.Random(options.seed), [], Path.cwd()
    undisturbed_s: dict[str, float] = {}
    columns = ("run", "struck by", "strikes", *LEFT, "exit codes", "as before until", "temporary files", "wrong")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        try:
            for run, blow, n in planned(prepare(Path(folder)), options.kills, options.signals, options.aimed):
                row, latest_s = Row(), AIM_S
                if not blow.aim:
                    fill(run.earlier)
                    if run.name not in undisturbed_s:
                        undisturbed_s[run.name] = execute(run.words)
                    latest_s = BEYOND * undisturbed_s[run.name]
                for _ in range(n):
                    strike(run, blow, rng.uniform(0, latest_s), row)
                counts = " | ".join(str(row.left[left]) for left in LEFT)
                exits = ", ".join(f"{code}: {count}" for code, count in sorted(row.exits.items()))
                until = "" if blow.aim else f"{row.untouched_until_s:.2f} s of {latest_s / BEYOND:.2f} s"
                last = f"{exits} | {until} | {row.temporary} | {len(row.faults)}"
                print(f"| {run.name} | {blow.name} | {n} | {counts} | {last} |", flush=True)
                sys.stderr.writelines(f"{fault}\n" for fault in row.faults)
                faults += row.faults
        finally:
            os.chdir(home)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
