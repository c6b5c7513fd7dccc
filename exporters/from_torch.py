"""Loads a vision model from the user's own code: `package.module:factory` returns a torch module.

The module's forward returns a tensor (the representation) or a dict with the keys representation, pooled,
logits. What the exporter cannot see for itself, the module says in attributes:
    preprocessing: dict with the contract's fields (or --preprocessing FILE)
    weights: text that names the weights, e.g. a checkpoint's file name (or --weights FILE)
    weights_digest: "sha256:…" of that file; without it the digest is taken of the state dict
    synthetic: says what was planted by hand; leave it out for a model as it was trained
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from . import loading, preprocess
from .contract import Loaded, Output, Source, checked_preprocessing
from .errors import ENVIRONMENT, USAGE, ExportError
from .messages import quiet
from .wrappers import HeadTap, Named

MEANINGS = {
    "representation": ("representation returned by the module", "encoder_output"),
    "pooled": ("pooled features returned by the module", "pooled"),
    "logits": ("class logits", "logits"),
}


def load(
    name: str,
    *,
    weights: str | None = None,
    random_weights: bool = False,
    preprocessing: dict[str, Any] | None = None,
    head: str | None = None,
) -> Loaded:
    """Call the user's factory and make its module ready to export.

    Args:
        name: "package.module:factory"; the current folder is importable.
        weights: checkpoint file that must fit the module exactly; without it the module's attribute
            `weights` must say where its weights come from.
        preprocessing: the contract's fields; without it the module's attribute `preprocessing`.
        head: dotted name of a linear layer: its input becomes the representation, its output the logits.

    Raises:
        ExportError: no such module, factory or head, no preprocessing, weights unsaid (exit 2); the factory
            raised or the checkpoint does not fit (exit 3).
    """
    loading.refuse_both(name, weights, random_weights)
    path = loading.weights_file(weights)
    if weights and path is None:
        raise ExportError(f"{weights}: weights file is missing", "", exit_code=ENVIRONMENT)
    module = _made(name)
    if path is not None:
        loading.load_strictly(module, path, name)
    origin = path.name if path else str(getattr(module, "weights", ""))
    if not origin and not random_weights:
        raise loading.random_weights_error(
            name, "set the module's attribute `weights`, or give --weights FILE or --random-weights"
        )
    fields = preprocessing if preprocessing is not None else getattr(module, "preprocessing", None)
    if not isinstance(fields, dict):
        raise ExportError(
            f"{name}: preprocessing is not given; the module has no attribute `preprocessing`",
            'give --preprocessing FILE (a JSON object, see the page "The ONNX contract")',
            exit_code=USAGE,
        )
    fields = checked_preprocessing(fields, name)
    digest = loading.file_digest(path) if path else getattr(module, "weights_digest", "")
    wrapped, outputs = _wrapped(module, head, fields, name)
    return Loaded(
        module=wrapped,
        outputs=outputs,
        preprocessing=fields,
        transform=preprocess.as_transform(fields),
        source=Source(
            library="torch",
            name=name,
            weights="" if random_weights else origin,
            weights_digest=str(digest) if digest and not random_weights else loading.state_digest(module),
            random_weights=random_weights,
            synthetic=str(getattr(module, "synthetic", "")),
        ),
    )


def _made(name: str) -> torch.nn.Module:
    where, separator, factory = name.partition(":")
    if not (where and separator and factory):
        raise ExportError(
            f"{name}: name has no colon; it must be package.module:factory", "my_models.vision:build", exit_code=USAGE
        )
    with _current_folder_importable():
        try:
            code = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise ExportError(
                f"{name}: module {error.name} is not found", f"python -c 'import {where}'", exit_code=USAGE
            ) from error
        make = getattr(code, factory, None)
        if not callable(make):
            raise ExportError(
                f"{name}: {where} has no function {factory}",
                f"python -c 'import {where}; print(dir({where}))'",
                exit_code=USAGE,
            )
        with quiet() as messages, loading.seeded():
            try:
                module = make()
            except ExportError:
                raise
            except Exception as error:  # user code may raise anything; it is reported, not swallowed
                raise ExportError(
                    f"{name}: factory raised {type(error).__name__}: {error}{messages.quoted()}",
                    f"call {factory}() yourself",
                ) from error
    if not isinstance(module, torch.nn.Module):
        raise ExportError(f"{name}: factory returned {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _wrapped(
    module: torch.nn.Module, head: str | None, fields: dict[str, Any], name: str
) -> tuple[torch.nn.Module, tuple[Output, ...]]:
    if head:
        try:
            module.get_submodule(head)
        except AttributeError as error:
            known = [n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear)]
            raise ExportError(
                f"{name}: head {head} is not found; linear layers: {', '.join(known) or 'none'}",
                f"--head {known[-1]}" if known else "",
                exit_code=USAGE,
            ) from error
        return HeadTap(module, head), (
            Output("representation", f"input of {head}", "head_input"),
            Output("logits", f"class logits: output of {head}", "logits"),
        )
    try:
        with quiet(), torch.no_grad():
            output = module.eval()(torch.zeros(1, 3, *fields["size"]))
    except Exception as error:  # user code may raise anything
        raise ExportError(
            f"{name}: forward raised {type(error).__name__}: {error}",
            "it takes one (batch, 3, height, width) tensor",
        ) from error
    if isinstance(output, torch.Tensor):
        return Named(module), (Output("representation", *MEANINGS["representation"]),)
    if not isinstance(output, dict) or "representation" not in output or set(output) - set(MEANINGS):
        raise ExportError(
            f"{name}: forward returned {_shape_of(output)}; it must return a tensor, or a dict with representation "
            "and, if there are any, pooled and logits",
            "or name the last linear layer: --head NAME",
        )
    names = [n for n in MEANINGS if n in output]
    # beside logits, the representation is what the last linear layer reads; alone it is an encoder's output
    meanings = dict(MEANINGS)
    if "logits" in output:
        meanings["representation"] = ("representation returned by the module", "head_input")
    return Named(module, names), tuple(Output(n, *meanings[n]) for n in names)


def _shape_of(output: object) -> str:
    return f"a dict with {', '.join(map(str, output))}" if isinstance(output, dict) else type(output).__name__


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """Put the current folder last on the import path, so that it shadows nothing that is installed."""
    working_folder = str(Path.cwd())
    sys.path.append(working_folder)
    try:
        yield
    finally:
        sys.path.remove(working_folder)
