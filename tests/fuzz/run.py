"""python -m fuzz.run [--minutes M] [--kinds a,b] [--seed N] [--keep FOLDER]: read changed files until the time is over.

Run from the folder tests. Each kind has a process of its own, so that a death by a signal, or an input that never ends,
is seen; a line a kind says how many were read, refused, and what broke. What broke is kept, with the seed that makes it
anew. Exit code 1 if anything broke.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from robustcheck_onnx.thresholds.profile import ProfileError
from robustcheck_onnx.thresholds.suite import SuiteError

from .targets import SELF_TEST, TARGETS

LIMIT_S = 20.0  # for one input; most take milliseconds
COMMAND_LIMIT_S = 60.0  # where a command starts two processes, on a machine that may be busy
FOLDER = Path(__file__).parent.parent


def made(kind: str, seed: int) -> bytes:
    """The changed file of a kind with this seed."""
    rng = random.Random(seed)
    target = TARGETS[kind]
    return target.changed(rng.choice(target.samples()), rng)


def read(kind: str, content: bytes, folder: Path) -> str:
    """Read a changed file: "read" with what came of it, "refused N" with the exit code, or what broke."""
    target = TARGETS[kind]
    path = folder / target.name
    path.write_bytes(content)
    try:
        result = target.read(path)
    except MemoryError:
        return "refused 4"
    except Exception as fault:  # noqa: BLE001 # that is what is looked for
        if isinstance(fault, ProfileError | SuiteError):
            return "refused 2"  # each verb makes a UsageError of it
        if getattr(fault, "exit_code", 70) in (2, 3, 4):
            return f"refused {fault.exit_code}"  # type: ignore[attr-defined]
        tb = fault.__traceback__
        while tb is not None and tb.tb_next is not None and "robustcheck" not in tb.tb_next.tb_frame.f_code.co_filename:
            tb = tb.tb_next
        places = []
        while tb is not None:
            code = tb.tb_frame.f_code
            places.append(f"{Path(code.co_filename).name}:{tb.tb_lineno}")
            tb = tb.tb_next
        return f"broke {type(fault).__name__}: {str(fault)[:120]!r} at {' < '.join(reversed(places[-6:]))}"
    return f"read {result}" if isinstance(result, str) else "read"


def work(kind: str, first: int, last: int, minutes: float) -> None:
    """Read inputs from seed `first` to before `last`, and say after each what became of it; the parent watches."""
    end = time.monotonic() + 60 * minutes
    seed = first
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < end and seed < last:
            content = made(kind, seed)
            sys.stdout.write(f"{seed} ")
            sys.stdout.flush()
            sys.stdout.write(f"{read(kind, content, Path(folder))}\n".replace("\r", " "))
            sys.stdout.flush()
            seed += 1


def watch(kind: str, first: int, minutes: float, keep: Path, n: int = sys.maxsize) -> tuple[Counter[str], list[str]]:
    """Run workers of one kind for `n` inputs, or until the time is over; give the counts and what broke."""
    counts: Counter[str] = Counter()
    broke: list[str] = []
    end = time.monotonic() + 60 * minutes
    seed = first
    while seed - first < n and (left := end - time.monotonic()) > 0.5:
        command = [sys.executable, "-m", "fuzz.run", "--work", kind, "--seed", str(seed), "--last", str(first + n)]
        command += ["--minutes", str(left / 60)]
        seed = follow(command, kind, seed, keep, counts, broke, end)
    return counts, broke


def follow(
    command: list[str], kind: str, seed: int, keep: Path, counts: Counter[str], broke: list[str], end: float
) -> int:
    """Follow one worker to its end; give the seed to go on with."""
    import selectors

    worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=FOLDER)
    assert worker.stdout is not None
    pending, started, why = b"", time.monotonic(), ""
    limit_s = COMMAND_LIMIT_S if kind == "command" else LIMIT_S
    with selectors.DefaultSelector() as selector:
        selector.register(worker.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout=1.0):
                if b" " in pending and time.monotonic() - started > limit_s:
                    why = f"never ended in {limit_s:g} s"
                    worker.kill()
                    break
                continue
            chunk = os.read(worker.stdout.fileno(), 65536)
            if not chunk:
                break
            started = time.monotonic()
            *lines, pending = (pending + chunk).split(b"\n")
            for line in lines:
                number, _, said = line.decode().partition(" ")
                seed = int(number) + 1
                counts[said if said.startswith(("read", "refused")) else "broke"] += 1
                if said.startswith("broke"):
                    found(kind, int(number), said, keep, broke)
    code = worker.wait()
    if pending:  # it ended in the middle of an input
        seed = int(pending.split()[0]) + 1
        if why or code < 0:
            counts["killed" if why else "died"] += 1
            found(kind, seed - 1, why or f"died by signal {-code}", keep, broke)
    elif code != 0 and time.monotonic() < end:
        raise RuntimeError(f"{kind}: the worker ended with {code} before an input")
    return seed


def found(kind: str, seed: int, said: str, keep: Path, broke: list[str]) -> None:
    """Keep an input that broke something, and what is known of it."""
    keep.mkdir(parents=True, exist_ok=True)
    (keep / f"{kind}-{seed}-{TARGETS[kind].name}").write_bytes(made(kind, seed))
    broke.append(f"{kind} {seed}: {said}")


def main() -> int:
    """Run the kinds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all kinds together")
    parser.add_argument("--kinds", default=",".join(kind for kind in TARGETS if kind != SELF_TEST))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=FOLDER.parent / "build" / "fuzz")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, default=sys.maxsize, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.seed, options.last, options.minutes)
        return 0
    kinds = options.kinds.split(",")
    everything: list[str] = []
    for kind in kinds:
        counts, broke = watch(kind, options.seed, options.minutes / len(kinds), options.keep)
        numbers = ", ".join(f"{what} {n}" for what, n in counts.most_common())
        sys.stdout.write(f"{kind:9} {counts.total():7}  {numbers}\n")
        sys.stdout.flush()
        everything += broke
    places = {line.rpartition(" at ")[2]: line for line in reversed(everything)}  # the first of each place
    sys.stdout.write("".join(f"  {line}\n" for line in places.values()))
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
