"""Makes sure that the weights are those that were asked for: digests, strict loading, errors of a failed load."""

from __future__ import annotations

import contextlib
import hashlib
import pickle
import shlex
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ENVIRONMENT, NOT_EXPORTED, USAGE, ExportError
from .messages import Messages

if TYPE_CHECKING:
    import torch

CHECKPOINT_MARKS = (b"PK", b"\x80")  # zip (torch, npz) and pickle (old torch; read without unpickling code)
SAFETENSORS_MARK = b"{"  # after eight bytes of length
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AssertionError, struct.error)
"""What torch.load raised, beside UnpicklingError, for 9,000 cut and altered copies of three small checkpoints."""
RANDOM_SEED = 0  # of weights that were asked to be random; makes the file reproducible

# Exception types of huggingface_hub, httpx, requests and urllib that mean "the weights are not here and
# cannot be fetched"; by name, because the clients that raise them differ between versions.
_NOT_REACHABLE = {
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "RepositoryNotFoundError",
    "RevisionNotFoundError",
    "EntryNotFoundError",
    "RemoteEntryNotFoundError",
    "GatedRepoError",
    "HfHubHTTPError",
    "ConnectError",
    "ConnectTimeout",
    "ProxyError",
    "ConnectionError",
    "URLError",
    "HTTPError",
}


def file_digest(path: Path) -> str:
    """Return "sha256:" + hex of a file's bytes."""
    with path.open("rb") as stream:
        return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


def state_digest(module: torch.nn.Module) -> str:
    """Return "sha256:" + hex over the state dict, sorted by name.

    For each entry: UTF-8 text "name dtype d0,d1\\n" (d0, d1, … the shape), then the tensor's bytes (C order).
    """
    import torch

    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        sha.update(f"{name} {tensor.dtype} {','.join(map(str, tensor.shape))}\n".encode())
        sha.update(flat.view(torch.uint8).numpy().tobytes())
    return "sha256:" + sha.hexdigest()


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Make random initialisation reproducible without touching the caller's random state."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        yield


@contextlib.contextmanager
def recorded_loads() -> Iterator[list[Any]]:
    """Record the (missing_keys, unexpected_keys) of every load_state_dict inside the block.

    Libraries load some models with strict=False and only log what stayed random; this is the one place
    where that can be seen without re-implementing their loaders.
    """
    import torch

    original = torch.nn.Module.load_state_dict
    results: list[Any] = []

    def recording(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        results.append(result)
        return result

    torch.nn.Module.load_state_dict = recording  # type: ignore[method-assign]
    try:
        yield results
    finally:
        torch.nn.Module.load_state_dict = original  # type: ignore[method-assign]


def refuse_partial(name: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Raise when weights were left out or left over (exit 3)."""
    for kind, rule, keys in (
        ("missing", "they would stay random", sorted(missing)),
        ("unexpected", "this is another architecture's checkpoint", sorted(unexpected)),
    ):
        if keys:
            shown = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            raise ExportError(
                f"{name}: {len(keys)} weights are {kind} ({shown}); {rule}",
                "check that the checkpoint belongs to this model name",
            )


def random_weights_error(name: str, hint: str) -> ExportError:
    """Return the error for a model that would be exported with random weights (exit 2)."""
    return ExportError(f"{name}: weights are not given; random weights are refused", hint, exit_code=USAGE)


def refuse_both(name: str, weights: str | None, random_weights: bool) -> None:
    """Raise when weights and random weights are asked for together (exit 2)."""
    if weights and random_weights:
        raise ExportError(
            f"{name}: weights is {weights} and --random-weights is given; use one of them",
            "drop --random-weights or --weights",
            exit_code=USAGE,
        )


def weights_file(weights: str | None) -> Path | None:
    """Return the path when `weights` is a file or looks like one, None for a tag.

    Raises:
        ExportError: it looks like a path but there is no such file (exit 4); it is no checkpoint (exit 3).
    """
    if not weights:
        return None
    path = Path(weights)
    if path.is_file():
        with path.open("rb") as stream:
            start = stream.read(9)
        if not start.startswith(CHECKPOINT_MARKS) and start[8:] != SAFETENSORS_MARK:
            raise ExportError(
                f"{weights}: checkpoint starts with {start!r}; it must be safetensors, a torch state dict or npz",
                f"file {shlex.quote(weights)}",
            )
        return path
    if "/" in weights or path.suffix in {".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt"}:
        raise ExportError(
            f"{weights}: weights file is missing; it must be an existing file or a tag",
            f"place the checkpoint at {weights}",
            exit_code=ENVIRONMENT,
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state dict of a .safetensors file or a torch checkpoint (read without unpickling code).

    Raises:
        ExportError: the file cannot be read, or holds no state dict (exit 3).
    """
    import torch

    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to unpickle code after all
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unreadable(path, "it holds Python objects or code, which are never unpickled") from error
    except DAMAGED as error:
        raise _unreadable(path, _first_mismatch(error)) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ExportError(
            f"{path}: checkpoint is not a state dict; it must hold names and tensors only",
            "save it again with torch.save(model.state_dict(), …)",
        )
    return state


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, _first_mismatch(error)) from error


def _unreadable(path: Path, reason: str) -> ExportError:
    return ExportError(
        f"{path}: checkpoint is unreadable ({reason}); it must be a .safetensors file or a torch state dict",
        "save it again with torch.save(model.state_dict(), …) or safetensors",
    )


def load_strictly(module: torch.nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint file into a module; every key and every shape must fit.

    Raises:
        ExportError: missing or unexpected keys, or another shape (exit 3).
    """
    try:
        result = module.load_state_dict(read_checkpoint(path), strict=False)
    except RuntimeError as error:  # shapes that differ raise even when not strict
        raise ExportError(
            f"{path}: checkpoint does not fit {name} ({_first_mismatch(error)}); every weight must fit",
            "check that the checkpoint belongs to this model name",
        ) from error
    refuse_partial(f"{path} in {name}", result.missing_keys, result.unexpected_keys)


def load_error(error: Exception, name: str, *, place: str, messages: Messages | None = None) -> ExportError:
    """Translate a library's failure to load `name` into one clear error.

    Args:
        place: hint used when the weights are not here and cannot be fetched (exit 4).
        messages: what the library said meanwhile; its last line joins the error of an unexplained failure (exit 3).
    """
    if isinstance(error, ExportError):
        return error
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(type(c).__name__ in _NOT_REACHABLE or isinstance(c, FileNotFoundError) for c in causes):
        return ExportError(
            f"{name}: weights are not on this machine and could not be downloaded; a local copy or a network is needed",
            place,
            exit_code=ENVIRONMENT,
        )
    last_line = messages.quoted(1) if messages else ""
    return ExportError(
        f"{name}: weights could not be loaded ({type(error).__name__}: {_first_mismatch(error)}){last_line}; "
        "every weight must fit",
        "check the name and that the checkpoint belongs to it",
        exit_code=NOT_EXPORTED,
    )


def _first_mismatch(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # load_state_dict puts the useful line (which keys) second
    text = lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
    return text if len(text) <= 200 else text[:199] + "…"
