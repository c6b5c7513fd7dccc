"""The command in a process of its own, without the half second that Python and its packages take to start.

A server has imported all that a check imports (and no torch). For each call it forks: the child has the caller's
folder, its own stdout and stderr, and its exit code. Only how Python starts and ends is not tested so.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from support import profile

SERVER = """
import json, os, sys
from robustcheck_onnx.checker import cli, pipeline, report, verify
from robustcheck_onnx.checker import child, inspection
from robustcheck_onnx.checker.cli import check_run, usage
from robustcheck_onnx.checker.report import terminal
from robustcheck_onnx.checker.runtime import doctor
for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if child == 0:
        os.chdir(call["folder"])
        for descriptor in (1, 2):
            os.dup2(os.open(call["streams"][descriptor - 1], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        code = cli.main(call["arguments"])
        sys.stdout.flush()
        os._exit(code)  # ONNX Runtime would join a thread that a fork does not have
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class WarmCommand:
    """A server; close it in the end."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._streams = tempfile.TemporaryDirectory()
        self._server = subprocess.Popen(
            [sys.executable, "-Pc", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """What `robustcheck ARGUMENTS` does in a folder."""
        streams = [Path(self._streams.name) / name for name in ("out", "err")]
        call = {"folder": str(folder), "arguments": arguments, "streams": list(map(str, streams))}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(call), file=self._server.stdin, flush=True)
        if not select.select([self._server.stdout], [], [], profile.PATIENCE_S)[0]:
            self._server.kill()
            raise TimeoutError(f"no end after {profile.PATIENCE_S} s: {arguments}")
        code = int(self._server.stdout.readline())
        out, err = (path.read_bytes().decode(errors="surrogateescape") for path in streams)
        return subprocess.CompletedProcess(arguments, code, out, err)

    def close(self) -> None:
        """End the server."""
        self._server.communicate(timeout=profile.PATIENCE_S)
        self._streams.cleanup()
