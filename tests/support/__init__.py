"""What the tests share, imported by its name: `from support import ROOT, measuring`."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any, Final, TypeVar
from unittest import mock

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray
from pydantic import BaseModel

from robustcheck_onnx.checker.errors import UsageError

Capture = pytest.CaptureFixture[str]
Fields = dict[str, Any]  # values by their names
Made = Callable[..., Any]  # what a fixture makes to be called
Patch = pytest.MonkeyPatch
Place = tuple[Path, Path]  # a model, and the folder of its photos
ROOT = Path(__file__).parent.parent.parent  # of the repository
BIN = Path(sys.executable).parent  # where the command is
SHARED = Path(os.environ.get("ROBUSTCHECK_SHARED", ROOT.parent / "shared")) / "data"  # no part of the project
EMBEDDINGS = SHARED / "embeddings"
needs_embeddings = pytest.mark.skipif(not EMBEDDINGS.is_dir(), reason="the published embedding vectors are not there")
PHOTOS = sorted((ROOT / "checker" / "photos").glob("*.jpg"))  # the bundled ones
INSTALLED = next(each for each in metadata.distributions() if each.name.startswith("robustcheck-onnx")).name
LONG: Final = os.environ.get("TEST_PROFILE") == "long"
EXAMPLES: Final = 300 if LONG else 40
"""of each test with hypothesis"""
PATIENCE_S: Final = 600.0 * float(os.environ.get("TEST_PATIENCE", "1"))
"""after which a test gives up on a process; far more than any needs, so that a busy machine fails nothing"""


def sized(short: int, long: int) -> int:
    """Return the number of draws of a simulation: `short` in `make test`, `long` in `make test-long`."""
    return long if LONG else short


def flip(path: Path, place: int = -1) -> None:
    """Change the last bit of a byte of a file; once more, and it is as before."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def extra(name: str) -> str:
    """What to type for an extra of the distribution that is tested: a release tests each."""
    return f"pip install '{INSTALLED}[{name}]'"


Record = TypeVar("Record", bound=BaseModel)


def but(record: Record, /, **changes: Any) -> Record:
    """A record with other values; "part__field" names the field of a part."""
    for name, value in changes.items():
        part, _, field = name.partition("__")
        record = record.model_copy(update={part: but(getattr(record, part), **{field: value}) if field else value})
    return record


def normal(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    """Numbers of a normal distribution."""
    return default_rng(seed).normal(size=shape)


TORN_NPY = b"\x93NUMPY\1\0v\0" + b"(" * 118
"""an .npy file with a header that is not even Python's tokens"""
PIXELS = normal(5, 8, 8, 3, seed=1).astype(np.float32)
"""five preprocessed images, (image, height, width, channel)"""


def levels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Grey levels of noise."""
    return default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def read_text(path: str | Path) -> str:
    """The content of a text file; a relative path is one of the repository."""
    return (ROOT / path).read_text(encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def code_in(path: str | Path) -> int:
    """The exit code in an error document, which holds no verdict."""
    document = read_json(path)
    assert "verdict" not in document
    return int(document["error"]["exit_code"])


Fault = TypeVar("Fault", bound=BaseException)


def raised(kind: type[Fault], said: str, call: Callable[..., object], *given: Any, **named: Any) -> Fault:
    """The error of a call, which must be of this kind and match these words."""
    with pytest.raises(kind, match=said or None) as caught:
        call(*given, **named)
    return caught.value


def refused(said: str, call: Callable[..., object], *given: Any, **named: Any) -> None:
    """Hold that a call ends in a usage error with these words, and with a hint."""
    fault = raised(UsageError, "", call, *given, **named)
    assert said in fault.message
    assert fault.hint


@contextlib.contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yield the address of a web server on the loopback interface, whose requests the handler answers."""
    silent = mock.patch.object(BaseHTTPRequestHandler, "log_message")
    with silent, ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def robustcheck(*words: object) -> int:
    """The exit code of a command line, typed in this process."""
    from robustcheck_onnx.checker.cli import app

    return app.main([str(word) for word in words])
