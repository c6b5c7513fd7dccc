"""python -m fuzz.run [--minutes M] [--kinds a,b] [--seed N] [--keep FOLDER]: read changed files until the time is over.

Run from the folder tests. Each kind has a process of its own, so that a death by a signal, or an input that never ends,
is seen; a line a kind says how many were read, refused, and what broke. What broke is kept, with the seed that makes it
anew. Exit code 1 if anything broke.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from robustcheck_onnx.thresholds.profile import ProfileError
from robustcheck_onnx.thresholds.suite import SuiteError

from .targets import SELF_TEST, TARGETS

LIMIT_S = 60  # for one input; most take milliseconds
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
    except (ProfileError, SuiteError):
        return "refused 2"  # each verb makes a UsageError of it
    except Exception as fault:  # noqa: BLE001 # that is what is looked for
        code = getattr(fault, "exit_code", 70)
        if code in (2, 3, 4):
            return f"refused {code}"
        places = [f"{Path(at.filename).name}:{at.lineno}" for at in traceback.extract_tb(fault.__traceback__)[:-7:-1]]
        return f"broke {type(fault).__name__}: {str(fault)[:120]!r} at {' < '.join(places)}"
    return f"read {result}" if isinstance(result, str) else "read"


def work(kind: str, first: int, last: int, minutes: float) -> None:
    """Read inputs from seed `first` to before `last`, and say after each what became of it; the parent watches.

    An input that never ends ends the process by SIGALRM, native code or not.
    """
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, last):
            content = made(kind, seed)
            sys.stdout.write(f"{seed} ")
            sys.stdout.flush()
            signal.alarm(LIMIT_S)
            said = read(kind, content, Path(folder))
            signal.alarm(0)
            sys.stdout.write(f"{said}\n".replace("\r", " "))
            sys.stdout.flush()
            if time.monotonic() > end:
                break


def watch(kind: str, first: int, minutes: float, keep: Path, n: int = sys.maxsize) -> tuple[Counter[str], list[str]]:
    """Run workers of one kind for `n` inputs, or until the time is over; give the counts and what broke.

    An input that broke something is kept in the folder `keep`.
    """
    counts: Counter[str] = Counter()
    broke: list[str] = []
    end = time.monotonic() + 60 * minutes
    seed = first
    while seed - first < n and (left_s := end - time.monotonic()) > 0.5:
        command = [sys.executable, "-m", "fuzz.run", "--work", kind, "--seed", str(seed), "--last", str(first + n)]
        command += ["--minutes", str(left_s / 60)]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False, cwd=FOLDER
        )
        *lines, pending = done.stdout.split("\n")
        if pending:  # it ended in the middle of an input
            lines.append(f"{pending}died by signal {-done.returncode}")
        elif done.returncode != 0:
            raise RuntimeError(f"{kind}: the worker ended with {done.returncode} before an input")
        for line in lines:
            number, _, said = line.partition(" ")
            seed = int(number) + 1
            counts[said if said.startswith(("read", "refused")) else said.split()[0]] += 1
            if said.startswith(("broke", "died")):
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{kind}-{number}-{TARGETS[kind].name}").write_bytes(made(kind, int(number)))
                broke.append(f"{kind} {number}: {said}")
    return counts, broke


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
    sys.stdout.write("".join(f"  {line}\n" for line in everything))
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
