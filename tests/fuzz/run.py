"""python -m fuzz.run [--minutes M] [--kinds a,b] [--seed N]: read changed files until the time is over.

Run from the folder tests. A process of its own reads the inputs of a kind, so that a death by a signal, or an input
that never ends, is seen; a line per kind says how many were read, refused, and what broke. What broke is kept, with the
seed that makes it again. Exit code 1 if anything broke.
"""

import argparse
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from robustcheck_onnx.thresholds.profile import ProfileError
from robustcheck_onnx.thresholds.suite import SuiteError

from .targets import SELF_TEST, TARGETS

LIMIT_S = 60  # for one input; most take milliseconds
SPAWN = multiprocessing.get_context("spawn")


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
    except (ProfileError, SuiteError):
        return "refused 2"  # each verb makes a UsageError of it
    except Exception as fault:  # noqa: BLE001 # that is what is looked for
        code = getattr(fault, "exit_code", 70)
        if code in (2, 3, 4):
            return f"refused {code}"
        places = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(fault.__traceback__)[:-7:-1]]
        return f"broke {type(fault).__name__}: {str(fault)[:120]!r} at {' < '.join(places)}"
    return f"read {result}" if isinstance(result, str) else "read"


def work(kind: str, seeds: Connection) -> None:
    """Read the input of each seed that comes, and answer what became of it.

    An input that never ends ends the process by SIGALRM, native code or not.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native code writes before it ends
    with tempfile.TemporaryDirectory() as folder:
        while (seed := seeds.recv()) is not None:
            content = made(kind, seed)
            signal.alarm(LIMIT_S)
            said = read(kind, content, Path(folder))
            signal.alarm(0)
            seeds.send(said)


def watch(kind: str, first: int, minutes: float, keep: Path, n: int = sys.maxsize) -> tuple[Counter[str], list[str]]:
    """Give a worker of one kind `n` inputs, or as many as it reads in the time; give the counts and what broke.

    An input that broke something is kept in the folder `keep`.
    """
    counts: Counter[str] = Counter()
    broke = []
    end, seed, worker = time.monotonic() + 60 * minutes, first, None
    while seed < first + n and time.monotonic() < end:
        if worker is None:
            seeds, theirs = SPAWN.Pipe()
            worker = SPAWN.Process(target=work, args=(kind, theirs))
            worker.start()
            theirs.close()
        seeds.send(seed)
        try:
            said = seeds.recv()
        except EOFError:
            worker.join()
            said, worker = f"died with {worker.exitcode}", None
        counts[said if said.startswith(("read", "refused")) else said.split()[0]] += 1
        if said.startswith(("broke", "died")):
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{kind}-{seed}-{TARGETS[kind].name}").write_bytes(made(kind, seed))
            broke.append(f"{kind} {seed}: {said}")
        seed += 1
    if worker is not None:
        seeds.send(None)
        worker.join()
    return counts, broke


def main() -> int:
    """Run the kinds one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="for all kinds together")
    parser.add_argument("--kinds", default=",".join(kind for kind in TARGETS if kind != SELF_TEST))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = options.kinds.split(",")
    everything = []
    for kind in kinds:
        counts, broke = watch(kind, options.seed, options.minutes / len(kinds), Path("../build/fuzz"))
        numbers = ", ".join(f"{what} {n}" for what, n in counts.most_common())
        sys.stdout.write(f"{kind:9} {counts.total():7}  {numbers}\n")
        sys.stdout.flush()
        everything += broke
    sys.stdout.write("".join(f"  {line}\n" for line in everything))
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
