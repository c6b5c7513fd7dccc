"""Read files of strangers in child processes: the wall. There is one per model, and data or an error comes back.

A file that ends, blocks or fills the process that reads it ends, blocks or fills the child alone. The child is an
interpreter of its own, started while this process still imports what it needs; no process with threads is forked. What
comes back is JSON. The wall is not a sandbox: the child may do what the user may.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from signal import SIGINT, SIGTERM
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, get_type_hints

from ..core.model_size import MAX_MODEL_SIZE
from ..core.progress import LOG, Progress, Tell
from ..errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from ..text import Fields, Texts, frozen

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Params = ParamSpec("Params")
Answer = TypeVar("Answer")
PACKAGE = "robustcheck_onnx.checker."

LOOK_S = 0.05  # between two looks at a child's memory and time
GRACE_S = 10.0  # for a child that is to end
ANSWER_BYTES = 1 << 26  # a longer line of a child is not an answer
START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from robustcheck_onnx.checker.child import main; sys.exit(main())"
)


FLAGS: Texts = ("-P",)
"""Of the interpreter: it takes no module from the current folder, and heeds no variable that this process ignores."""
if sys.flags.isolated:
    FLAGS = ("-I",)
elif sys.flags.ignore_environment:
    FLAGS = ("-P", "-E")

QUIET_BLAS = {"OPENBLAS_THREAD_TIMEOUT": "20"}
"""Of a child's environment: idle threads of NumPy's OpenBLAS spin for 2**20 processor cycles, not for 2**28
(https://github.com/OpenMathLib/OpenBLAS/issues/5171); with fewer a factorisation took longer"""


@frozen
class Limits:
    """The limits of one child; None = no limit.

    Raises UsageError for a limit that is not a positive number.
    """

    timeout_s: float | None = None
    """seconds of one model, from its start to its end"""
    memory_bytes: int | None = None
    """memory of the child's own at any time, without the files that it maps (Linux only)"""
    model_bytes: int | None = None
    """size of the model file with its external data"""

    def __post_init__(self) -> None:
        for option, value in self.given.items():
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"{option} is {value}; it must be more than 0", f"leave out {option} for no limit")
        if self.memory_bytes is not None and not STATUS.exists():
            raise EnvironmentFaultError(
                "--max-memory is not possible here; the memory of a process is read from /proc, as on Linux",
                "leave out --max-memory",
            )

    @property
    def given(self) -> dict[str, float]:
        """Return the set limits by their options."""
        limits = {
            "--timeout": self.timeout_s,
            "--max-memory": self.memory_bytes,
            "--max-model-size": self.model_bytes,
        }
        return {option: value for option, value in limits.items() if value is not None}

    def refuse_here(self) -> None:
        """Raise UsageError for limits where there is no child to enforce them on."""
        if self.given:
            settings = ", ".join(f"{option} {value:g}" for option, value in self.given.items())
            raise UsageError(
                f"limits are {settings}; only a local child process has them", "isolate=True with images in files"
            )


MOST_SIDE_BY_SIDE = 8  # children: each runs its model on all cores
CONTAINER = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
STATUS = Path("/proc/self/status")
NO_LIMITS = Limits()


class Wall:
    """The child processes for some tasks, one for each. As a context: whatever still runs at its end is ended."""

    def __init__(self, limits: Limits = NO_LIMITS) -> None:
        """Start the first child, unless `start_early` has. limits: of each child, for each task."""
        self.limits = limits
        self._is_stopped = False
        self._running: list[_Child] = []
        self._waiting = [EARLY.pop() if EARLY else _Child()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        while self._waiting:
            self._waiting.pop().close()

    def n_side_by_side(self, child_bytes: int) -> int:
        """Return how many children this machine has cores and memory for; 1 where its memory can't be read."""
        free_bytes: list[int] = []
        for file in (Path("/proc/meminfo"), *CONTAINER):
            with suppress(OSError, ValueError):
                text = file.read_text(encoding="ascii")
                _, is_of_system, kibibytes = text.partition("MemAvailable:")
                free_bytes.append(int(kibibytes.split()[0]) << 10 if is_of_system else int(text))
        n_fitting = min(free_bytes, default=0) // (self.limits.memory_bytes or child_bytes)
        if n_fitting <= 1:
            return 1
        return min(n_fitting, MOST_SIDE_BY_SIDE, len(os.sched_getaffinity(0)))

    @contextmanager
    def threads(self, n: int) -> Iterator[ThreadPoolExecutor]:
        """Yield threads that run tasks side by side. An error here, or a signal, kills their children."""
        from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 # the child starts meanwhile

        pool = ThreadPoolExecutor(n)
        try:
            yield pool
        except BaseException:
            self.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def run(
        self,
        task: str,
        arguments: Mapping[str, object],
        answer: Any,
        *,
        about: str,
        tell: Tell | None = None,
        is_last: bool = True,
        tries: int = 1,
    ) -> Any:
        """Let a child call a function; return its answer. Threads may run tasks side by side.

        Args:
            task: the function, one of `child.TASKS`.
            arguments: values, records and paths for it; they go as JSON.
            answer: type of what comes back.
            about: names the model, or what else is read, in errors.
            tell: called with the progress of the child.
            is_last: False where another task comes: its child starts while this one works. Linux ends a child with the
                thread that started it, so a thread that ends before that task starts none.
            tries: times that the task is begun where a child ends by itself.

        Raises:
            RobustcheckError: what the child raised, as it was.
            CannotAssessError: the child ended by itself, or took longer than `Limits.timeout_s`.
            EnvironmentFaultError: it took more than `Limits.memory_bytes`, or the system killed it.
        """
        from pydantic import TypeAdapter  # noqa: PLC0415 # the child starts while this is imported
        from pydantic_core import to_jsonable_python  # noqa: PLC0415

        sent = to_jsonable_python(dict(arguments), by_alias=False, fallback=os.fspath)
        for left in reversed(range(tries)):
            try:
                child = self._waiting.pop()
            except IndexError:
                child = _Child()
            self._running.append(child)
            if self._is_stopped:
                child.kill()
            with closing(child):
                child.ask(task, sent, about=about, limits=self.limits)
                if not is_last:
                    self._waiting.append(_Child())
                try:
                    reply = child.answer(tell)
                except RobustcheckError:
                    if not child.has_ended or left == 0 or self._is_stopped:
                        raise
                    continue
            try:
                return TypeAdapter(answer).validate_python(reply)
            except (ValueError, TypeError, KeyError) as fault:  # a record's own validators, too
                raise unreadable(about) from fault
        raise AssertionError("tries is less than 1")

    def stop(self) -> None:
        """Kill the children, from another thread, so that `run` raises as if they had ended by themselves."""
        self._is_stopped = True
        for child in list(self._running):
            child.kill()


EARLY: list[_Child] = []
"""a child that no wall has taken yet"""


def start_early() -> None:
    """Start the first wall's child now, to import while this process still imports the command line."""
    with suppress(RobustcheckError):  # the wall finds the same, and says so
        EARLY.append(_Child())


def apart(function: Callable[Params, Answer], about: str, limits: Limits = NO_LIMITS) -> Callable[Params, Answer]:
    """Return a function that a separate child calls, one of `child.TASKS`. Raises as the function and `Wall.run`.

    about, limits: as of `Wall`.
    """

    def call(*args: Params.args, **arguments: Params.kwargs) -> Answer:
        tell = arguments.pop("progress", None)
        hints = get_type_hints(function)
        sent = dict(zip(hints, args, strict=False)) | arguments
        task = f"{function.__module__.removeprefix(PACKAGE)}:{function.__name__}"
        with Wall(limits) as wall:
            answer: Answer = wall.run(task, sent, hints["return"], about=about, tell=tell)  # type: ignore[arg-type]
        return answer

    return call


def is_possible(source: object, *places: str | None) -> bool:
    """Return whether a child can see what is read: not images that were handed over, nor fsspec's memory."""
    return source is None and not any((place or "").startswith("memory:") for place in places)


class NotReadError(CannotAssessError):
    """A file of which nothing is known: the process that reads it ended, took too long, or gave no answer."""


def too_slow(about: str, timeout_s: float) -> NotReadError:
    """Return the error of a model that took longer than its limit of time."""
    return NotReadError(
        f"{about}: reading and measuring it took longer than {timeout_s:g} s, its limit of time (--timeout)",
        f"--timeout {2 * timeout_s:g}, or --max-images for a smaller set",
    )


def unreadable(about: str) -> NotReadError:
    """Return the error of a child with a wrong answer, which what it read has broken."""
    return NotReadError(
        f"{about}: the process that reads it gave no readable answer", "export the model again; try other images"
    )


def _error(content: Fields) -> RobustcheckError:
    kinds = {kind.exit_code: kind for kind in (UsageError, CannotAssessError, EnvironmentFaultError)}
    kind = kinds.get(content["exit_code"], RobustcheckError)
    error = kind(str(content["message"]), str(content["hint"]))
    error.__cause__ = Exception(f"in the child process\n{content['traceback']}")  # for --debug
    return error


class _Child:
    """A process that waits for one task."""

    def __init__(self) -> None:
        self._about = ""
        self._limits = NO_LIMITS
        self._started_s = 0.0
        self._is_busy = False
        self.has_ended = False
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="robustcheck-", ignore_cleanup_errors=True)
            with signals_wait():  # the child inherits that, until it answers them itself
                self._process = subprocess.Popen(  # noqa: S603
                    [sys.executable or "python", *FLAGS, "-c", START, json.dumps(sys.path)],
                    env=QUIET_BLAS | os.environ,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
        except OSError as fault:
            raise EnvironmentFaultError(
                f"child process is not possible ({fault.strerror}); each model is read in one", "df -h; ulimit -u"
            ) from fault
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, name="robustcheck-child", daemon=True).start()

    def _read(self) -> None:
        """Pass the child's lines on, and an empty one at its end."""
        assert self._process.stdout is not None
        try:
            with suppress(OSError, ValueError), self._process.stdout as lines:  # ValueError: closed
                while line := lines.readline(ANSWER_BYTES):
                    self._lines.put(line)
        finally:
            self._lines.put(b"")

    def ask(self, task: str, arguments: Fields, *, about: str, limits: Limits) -> None:
        """Send the task; `answer` waits for what comes back."""
        variables = dict(os.environ)
        if limits.model_bytes:
            variables[MAX_MODEL_SIZE] = str(limits.model_bytes)
        request = {
            "task": task,
            "about": about,
            "arguments": arguments,
            "log": LOG.getEffectiveLevel(),
            "folder": self._folder.name,
            "variables": variables,
        }
        assert self._process.stdin is not None
        self._is_busy = True
        self._about = about
        self._limits = limits
        self._started_s = time.monotonic()
        with suppress(OSError):  # it has ended already: that shows where its answer is awaited
            self._process.stdin.write(json.dumps(request).encode("ascii") + b"\n")
            self._process.stdin.flush()

    def answer(self, tell: Tell | None) -> Any:
        """Pass the child's progress and log on, until it answers or its error is raised."""
        while True:
            kind, content = self._message()
            self._is_busy = kind not in ("answer", "error")
            if kind == "answer":
                return content
            if kind == "error":
                raise content
            if kind == "progress" and tell is not None:
                tell(content)

    def _message(self) -> tuple[str, Any]:
        """Return the child's next message by its kind, and its Progress, its error, or its answer as it is."""
        line = self._line()
        try:
            ((kind, content),) = dict(json.loads(line)).items()
            if kind == "progress":
                content = Progress(**content)
            elif kind == "error":
                content = _error(content)
            elif kind != "answer":
                LOG.log(int(content["level"]), "%s", str(content["text"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
            raise unreadable(self._about) from fault
        return kind, content

    def _line(self) -> bytes:
        """Return the child's next line. Raises where it has ended, and as `_look`."""
        line = None
        while line is None:
            with suppress(Empty):
                line = self._lines.get(timeout=LOOK_S)
            self._look()
        if not line.endswith(b"\n"):
            self.has_ended = True
            raise self._ended()
        return line

    def _look(self) -> None:
        """End a child that is beyond a limit."""
        timeout_s = self._limits.timeout_s
        if timeout_s is not None and time.monotonic() - self._started_s > timeout_s:
            self._process.kill()
            raise too_slow(self._about, timeout_s)
        memory_bytes = self._limits.memory_bytes
        if memory_bytes is None:
            return
        used_bytes = _own_bytes(self._process.pid)
        if used_bytes > memory_bytes:
            self._process.kill()
            raise EnvironmentFaultError(
                f"{self._about}: the process that reads it took {used_bytes >> 20:,} MiB of memory; its limit, "
                f"--max-memory, is {memory_bytes >> 20:,} MiB",
                "--batch-size 1, or a larger --max-memory: before it reads anything, the process takes some 50 MiB",
            )

    def _ended(self) -> RobustcheckError:
        """Return the error of a child that ended without answer."""
        about = self._about
        try:
            code = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:  # it has not ended: its line is too long, or it closed its end
            self._process.kill()
            return unreadable(about)
        if code == -9:  # SIGKILL, which Windows does not have
            return EnvironmentFaultError(
                f"{about}: the process that read it was killed; too little memory is a usual cause",
                "free -h; --batch-size 1",
            )
        if limit := _address_space():  # a library that gets no memory ends as it likes
            return EnvironmentFaultError(
                f"{about}: the process that read it ended by itself; its address space is limited to "
                f"{limit >> 20:,} MiB (ulimit -v), which is a usual cause",
                "ulimit -v unlimited; --max-memory limits what a check takes",
            )
        names = {number.value: number.name for number in signal.Signals}
        how = f"signal {names.get(-code, -code)}" if code < 0 else f"exit code {code}"
        return NotReadError(
            f"{about}: the process that read it ended by {how}; a file that native code can't read is a usual cause",
            "export the model again; try other images",
        )

    def kill(self) -> None:
        """Kill the child, whatever it is at."""
        self._process.kill()

    def close(self) -> None:
        """End the child, and remove its temporary files."""
        assert self._process.stdin is not None
        if self._is_busy:  # an error here, or a signal: the child still works
            self._process.kill()
        with suppress(OSError):
            self._process.stdin.close()  # an idle child ends by that
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()


@contextmanager
def signals_wait() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait while the block runs."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {SIGINT, SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _address_space() -> int:
    """Return this process's limit of address space, in bytes (`ulimit -v`); 0 without one, and on Windows."""
    try:
        import resource  # noqa: PLC0415 # not on Windows
    except ImportError:
        return 0
    return max(0, resource.getrlimit(resource.RLIMIT_AS)[0])  # without one it is −1


def _own_bytes(pid: int) -> int:
    """Return a process's own memory without that of files, in bytes; 0 for one that has ended."""
    try:
        _, resident, of_files, *_ = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return (int(resident) - int(of_files)) * os.sysconf("SC_PAGE_SIZE")
