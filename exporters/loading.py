"""Load weights strictly, and say what is missing."""

from __future__ import annotations

import contextlib
import difflib
import pickle
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import CallError, ExportError, Messages, MissingError, first_mismatch, load_error, nearest, quiet, quoted
from .preprocessing import Fields

CHECKPOINT_MARKS = (b"PK", b"\x80")  # zip (torch, npz) and pickle (old torch; read without unpickling code)
SAFETENSORS_MARK = b"{"  # after eight bytes of length


def weights_file(weights: str | None) -> Path | None:
    """Return the path of `weights` where it is a file or looks like one, None for a tag.

    Raises:
        ExportError: it looks like a path but there is no such file (exit 4); it is not a checkpoint (exit 3).
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
                f"file {quoted(weights)}",
            )
        return path
    if "/" in weights or path.suffix in {".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt"}:
        raise MissingError(
            f"{weights}: weights file is missing; it must be an existing file or a tag",
            f"place the checkpoint at {weights}",
        )
    return None


def refuse_name(name: str, known: Sequence[str], asked: str, rule: str, hint: str = "") -> None:
    """Refuse a model that a library lacks, and name the closest ones (exit 2).

    Args:
        asked: the name as the caller wrote it. rule: what the library has. hint: for a name that is close to none.
    """
    if name in known:
        return
    close = difflib.get_close_matches(name, known, 3)
    if close:
        hint = f"closest: {', '.join(close)}"
    raise CallError(f"{asked}: model name is unknown to {rule}", hint or "hf-hub:ORG/REPO loads from the hub")


def unknown_tag(name: str, tag: str, known: Sequence[str]) -> CallError:
    """Return the error for weights that a library has not published."""
    near = nearest(tag, known or ["FILE"])
    return CallError(
        f"{name}: weights is {tag}; it must be one of {', '.join(known) or 'none published'}, or an existing file",
        f"--weights {near}",
    )


def random_weights_error(name: str, hint: str) -> CallError:
    """Return the error against exporting random weights."""
    return CallError(f"{name}: weights are not given; random weights are refused", hint)


def from_hub(repo: str, otherwise: str = "give the checkpoint with --weights FILE") -> str:
    """Return the hint for an unreachable hub repository."""
    return (
        f"run `hf download {repo}` where there is a network and copy models--{repo.replace('/', '--')} into "
        f"$HF_HOME/hub here, or {otherwise}"
    )


RANDOM_SEED = 0  # of weights that were asked to be random; makes the file reproducible


@contextlib.contextmanager
def loading(name: str, place: str, *, is_quoted: bool = True) -> Iterator[tuple[Messages, list[Any]]]:
    """Load a model quietly, with seeded random weights and errors of our own.

    Yields what the library said, and the (missing_keys, unexpected_keys) of every load_state_dict: libraries
    load some models with strict=False and only log what stayed random, which can be seen nowhere else without
    re-implementing their loaders.

    Args:
        place: hint for weights that are not here and cannot be fetched (exit 4).
        is_quoted: the library's last line joins the error of an unexplained failure (exit 3).
    """
    original = nn.Module.load_state_dict
    results: list[Any] = []

    def recording(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        results.append(result)
        return result

    with quiet() as messages, torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        nn.Module.load_state_dict = recording  # type: ignore[method-assign]
        try:
            yield messages, results
        except ExportError:
            raise
        except Exception as error:  # hub, file and parser errors of many libraries; translated, not lost
            raise load_error(error, name, place, messages.quoted(1) if is_quoted else "") from error
        finally:
            nn.Module.load_state_dict = original  # type: ignore[method-assign]


def refuse_partial(name: str, missing: Iterable[str], unexpected: Iterable[str] = ()) -> None:
    """Raise when weights were left out or left over (exit 3)."""
    for keys, kind, rule in (
        (sorted(missing), "missing", "they would stay random"),
        (sorted(unexpected), "unexpected", "this is another architecture's checkpoint"),
    ):
        if keys:
            shown = keys[:3]
            if len(keys) > 3:
                shown.append("…")
            raise ExportError(
                f"{name}: {len(keys)} weights are {kind} ({', '.join(shown)}); {rule}",
                "check that the checkpoint belongs to this model name",
            )


def load_strictly(module: nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint file into a module of which every key and every shape must fit.

    Raises:
        ExportError: missing or unexpected keys, or another shape (exit 3).
    """
    try:
        result = module.load_state_dict(read_checkpoint(path), strict=False)
    except RuntimeError as error:  # shapes that differ raise even when not strict
        raise ExportError(
            f"{path}: checkpoint does not fit {name} ({first_mismatch(error)}); every weight must fit",
            "check that the checkpoint belongs to this model name",
        ) from error
    refuse_partial(f"{path} in {name}", *result)


def read_checkpoint(path: Path) -> Fields:
    """Return the state dict of a .safetensors file or a torch checkpoint, without unpickling code.

    Raises:
        ExportError: the file cannot be read, or holds no state dict (exit 3).
    """
    again = "save it again with torch.save(model.state_dict(), …)"
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on how to unpickle code after all
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # cut and altered files raise whatever torch's reader meets
        is_code = isinstance(error, pickle.UnpicklingError)
        reason = "it holds Python objects or code, which are never unpickled" if is_code else first_mismatch(error)
        raise ExportError(
            f"{path}: checkpoint is unreadable ({reason}); it must be a .safetensors file or a torch state dict",
            f"{again} or safetensors",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ExportError(f"{path}: checkpoint is not a state dict; it must hold names and tensors only", again)
    return state
