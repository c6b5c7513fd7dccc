"""Wrap torch modules and load weights strictly. This is what loaders share."""

import contextlib
import copy
import difflib
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import CallError, ExportError, Messages, MissingError, quiet, quoted
from .contract import Fields, Loaded, Output, Outputs, Source, Wanted, file_digest, state_digest

Rows = tuple[Tensor, ...]
Tower = tuple[nn.Module, Outputs]

CHECKPOINT_MARKS = (b"PK", b"\x80")  # zip (torch, npz) and pickle (old torch; read without unpickling code)
SAFETENSORS_MARK = b"{"  # after eight bytes of length
RANDOM_SEED = 0  # of weights that were asked to be random; makes the file reproducible
EMBEDDING = Output("representation", "projected image embedding", "encoder_output")
LOGITS = Output("logits", "class logits", "logits")

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


def classifier_outputs(head: str) -> Outputs:
    """Return the outputs of a head_tap on a classifier's last layer."""
    return Output("representation", f"input of {head}, the last linear layer", "head_input"), LOGITS


def source_of(library: str, name: str, path: Path | None, weights: str, module: nn.Module) -> Source:
    """Return where a model came from. `path` is its weights file; without one `weights` names them."""
    digest = state_digest(module) if path is None else file_digest(path)
    return Source(library, name, weights if path is None else path.name, digest)


def loaded(
    wanted: Wanted, source: Source, module: nn.Module, outputs: Outputs, pixels: tuple[Fields, Any], *packages: str
) -> Loaded:
    """Return a model ready to export; random weights have no name."""
    if wanted.random_weights:
        source = source._replace(weights="", random_weights=True)
    return Loaded(module, outputs, *pixels, source, packages, wanted.prompts)


# Weights


def weights_file(weights: str | None) -> Path | None:
    """Return the path of `weights`, None for a tag. It is a file or looks like one.

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


def random_weights_error(name: str, hint: str) -> CallError:
    """Return the error against exporting random weights."""
    return CallError(f"{name}: weights are not given; random weights are refused", hint)


def refuse_name(name: str, known: Sequence[str], asked: str, rule: str, hint: str = "") -> None:
    """Refuse a model that a library lacks. The error has the closest names (exit 2).

    Args:
        asked: the name as the caller wrote it. rule: what the library has. hint: for a name that is close to none.
    """
    if name not in known:
        close = ", ".join(difflib.get_close_matches(name, known, 3))
        hint = f"closest: {close}" if close else hint or "hf-hub:ORG/REPO loads from the hub"
        raise CallError(f"{asked}: model name is unknown to {rule}", hint)


def unknown_tag(name: str, tag: str, known: Sequence[str]) -> CallError:
    """Return the error for weights that a library has not published."""
    return CallError(
        f"{name}: weights is {tag}; it must be one of {', '.join(known) or 'none published'}, or an existing file",
        f"--weights {(difflib.get_close_matches(tag, known, 1) or known or ['FILE'])[0]}",
    )


def from_hub(repo: str, otherwise: str = "give the checkpoint with --weights FILE") -> str:
    """Return the hint for an unreachable hub repository."""
    return (
        f"run `hf download {repo}` where there is a network and copy models--{repo.replace('/', '--')} into "
        f"$HF_HOME/hub here, or {otherwise}"
    )


@contextlib.contextmanager
def loading(name: str, place: str, *, is_quoted: bool = True) -> Iterator[tuple[Messages, list[Any]]]:
    """Load a model quietly. Random weights are seeded, and errors are our own.

    Yields what the library said, and the (missing_keys, unexpected_keys) of every load_state_dict: libraries
    load some models with strict=False and only log what stayed random. This is the one place where that can be
    seen without re-implementing their loaders.

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


def load_error(error: Exception, name: str, place: str, last_line: str = "") -> ExportError:
    """Return one clear error for a library's failure to load `name`."""
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    if any(type(c).__name__ in _NOT_REACHABLE or isinstance(c, FileNotFoundError) for c in causes):
        return MissingError(
            f"{name}: weights are not on this machine and could not be downloaded; a local copy or a network is needed",
            place,
        )
    return ExportError(
        f"{name}: weights could not be loaded ({type(error).__name__}: {_first_mismatch(error)}){last_line}; "
        "every weight must fit",
        "check the name and that the checkpoint belongs to it",
    )


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


def load_strictly(module: nn.Module, path: Path, name: str) -> None:
    """Load a checkpoint file into a module. Every key and every shape must fit.

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
    refuse_partial(f"{path} in {name}", *result)


def read_checkpoint(path: Path) -> Fields:
    """Return a checkpoint's state dict. It is a .safetensors file or a torch checkpoint; no code is unpickled.

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
        reason = "it holds Python objects or code, which are never unpickled" if is_code else _first_mismatch(error)
        raise ExportError(
            f"{path}: checkpoint is unreadable ({reason}); it must be a .safetensors file or a torch state dict",
            f"{again} or safetensors",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ExportError(f"{path}: checkpoint is not a state dict; it must hold names and tensors only", again)
    return state


def _first_mismatch(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # load_state_dict puts the useful line (which keys) second
    text = lines[1] if lines[0].startswith("Error(s) in loading") and len(lines) > 1 else lines[0]
    return text if len(text) <= 200 else text[:199] + "…"


# Modules


class Wrapped(nn.Module):
    """Modules and a function of them and the image."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, image: Tensor) -> Any:
        """Return what the function makes of this module and the image."""
        return self.run(self, image)


def head_tap(model: nn.Module, head: str) -> Wrapped:
    """Tap a model's head, a linear layer.

    forward(image) returns (input of the head, output of the head), both (batch, feature); of a map
    (batch, channel, height, width) the spatial mean.
    """

    def tap(self: Any, image: Tensor) -> Rows:
        seen: list[Rows] = []
        handle = self.model.get_submodule(head).register_forward_hook(
            lambda _module, inputs, output: seen.append((inputs[0], output))
        )
        try:
            self.model(image)
        finally:
            handle.remove()
        if len(seen) != 1:
            raise ExportError(
                f"{head}: head was called {len(seen)} times; it must be called once for an image",
                "choose another --head",
            )
        return tuple(tensor.mean((2, 3)) if tensor.ndim == 4 else tensor for tensor in seen[0])

    return Wrapped(tap, model=model)


def swapped(module: nn.Module) -> Wrapped:
    """Swap the outputs of a two-output module."""
    return Wrapped(lambda self, image: self.module(image)[::-1], module=module)


def as_rows(module: nn.Module, names: Sequence[str] = ()) -> Wrapped:
    """Return a module that gives the dict entries `names`. Without names it gives its only output."""

    def rows(self: Any, image: Tensor) -> Rows:
        output = self.module(image)
        return tuple(output[name] for name in names) if names else (output,)

    return Wrapped(rows, module=module)


def half_precision(module: nn.Module) -> Wrapped:
    """Copy a module to float16. Input and outputs stay float32."""
    half = copy.deepcopy(module).half()
    return Wrapped(lambda self, image: tuple(rows.float() for rows in self.module(image.half())), module=half)


def run_eager(module: nn.Module, image: Tensor, name: str) -> Any:
    """Run a module in inference mode. The error for model code that raises is ours."""
    try:
        with torch.no_grad():
            return module.eval()(image)
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # model code may raise anything; it is reported, not swallowed
        raise ExportError(
            f"{name}: model cannot run on {list(image.shape[2:])} px input ({type(error).__name__}: {error}); "
            "the preprocessing's size must be the model's",
            "check the size in the preprocessing",
        ) from error
