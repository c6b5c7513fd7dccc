"""Runs a function in a forked child with a time limit: a graph that never ends must not end the benchmark."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

CONTEXT = multiprocessing.get_context("fork")  # what is imported already need not be imported by every child


@dataclass(frozen=True)
class Ended:
    """How a child ended: with a value, with an error in words, or without either (`died`)."""

    value: object = None
    error: str = ""
    died: str = ""
    """"timeout", or "signal N" / "exit N" of a child that ended without an answer"""
    seconds: float = 0.0


def forked(action: Callable[[], object], limit_s: float) -> Ended:
    """Run `action` in a child process and return what it returned (picklable); kill it after `limit_s` seconds."""
    here, there = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_answer, args=(action, there), daemon=True)
    start = time.perf_counter()
    child.start()
    there.close()
    try:
        answered = here.poll(limit_s)
        value, error = here.recv() if answered else (None, "")
        died = "" if answered else "timeout"
    except EOFError:
        child.join()
        code = child.exitcode or 0
        value, error, died = None, "", f"signal {-code}" if code < 0 else f"exit {code}"
    seconds = time.perf_counter() - start
    if died == "timeout":
        child.kill()
    child.join()
    here.close()
    return Ended(value, error, died, seconds)


def _answer(action: Callable[[], object], there: Connection) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)  # what torch and the verbs print
    os.dup2(null, 2)
    try:
        there.send((action(), ""))
    except BaseException as fault:  # noqa: BLE001 # the parent tells it
        last = traceback.extract_tb(fault.__traceback__)[-1]
        text = " ".join(f"{type(fault).__name__}: {fault}".split())[:300]
        there.send((None, f"{text} ({os.path.basename(last.filename)}:{last.lineno})"))  # noqa: PTH119
