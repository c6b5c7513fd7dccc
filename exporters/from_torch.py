"""Load a model of one's own code."""

import importlib
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from . import CallError, ExportError, MissingError, contract, quiet, type_and_text
from .contract import Loaded, ModelSource, Output, Wanted, loaded
from .digests import file_digest, state_digest
from .loading import load_strictly, loading, random_weights_error, weights_file
from .preprocessing import as_transform, checked_preprocessing
from .wrappers import Tower, as_rows, head_tap

_RETURNED = "representation returned by the module"


def load_torch(wanted: Wanted) -> Loaded:
    """Call the user's factory and make its module ready to export.

    The module's forward returns a tensor (the representation) or a dict with the keys representation, pooled,
    logits. What the exporter cannot see for itself, the module has in attributes:
        preprocessing: dict with the contract's fields (or --preprocess FILE)
        weights: text that names the weights, e.g. a checkpoint's file name (or --weights FILE)
        weights_digest: "sha256:…" of that file; without it the digest is taken of the state dict
        synthetic: names what was planted by hand; leave it out for a model as it was trained

    Args:
        wanted: its name is "package.module:factory", where the current folder is importable. weights is a checkpoint
            file that must fit the module exactly. head is the dotted name of a linear layer: its input becomes the
            representation, its output the logits.

    Raises:
        ExportError: no such module, factory or head, no preprocessing, weights unsaid (exit 2); the factory
            raised or the checkpoint does not fit (exit 3).
    """
    name = wanted.name
    path = weights_file(wanted.weights)
    if wanted.weights and path is None:
        raise MissingError(f"{wanted.weights}: weights file is missing")
    module = _made(name)
    if path is not None:
        load_strictly(module, path, name)
    origin = path.name if path else str(getattr(module, "weights", ""))
    if not origin and not wanted.random_weights:
        raise random_weights_error(
            name, "set the module's attribute `weights`, or give --weights FILE or --random-weights"
        )
    fields = wanted.preprocessing or getattr(module, "preprocessing", None)
    if not isinstance(fields, dict):
        raise CallError(
            f"{name}: preprocessing is not given; the module has no attribute `preprocessing`",
            'give --preprocess FILE (a JSON object, see the page "Your ONNX file")',
        )
    fields = checked_preprocessing(fields, name)
    digest = file_digest(path) if path else getattr(module, "weights_digest", "")
    wrapped, outputs = _torch_outputs(module, wanted.head, fields["size"], name)
    if wanted.random_weights or not digest:
        digest = state_digest(module)
    source = ModelSource(
        library="torch",
        name=name,
        weights=origin,
        weights_digest=str(digest),
        synthetic=str(getattr(module, "synthetic", "")),
    )
    return loaded(wanted, source, wrapped, outputs, (fields, as_transform(fields)))


def _made(name: str) -> nn.Module:
    where, _, factory = name.partition(":")
    if not (where and factory):
        raise CallError(f"{name}: name has no colon; it must be package.module:factory", "my_models.vision:build")
    if where.endswith(".py"):
        module_name = where.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise CallError(f"{name}: {where} is a file; a module is named without .py", f"{module_name}:{factory}")
    working_folder = str(Path.cwd())
    sys.path.append(working_folder)  # last: it shadows nothing that is installed
    try:
        try:
            code = importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise CallError(f"{name}: module {error.name} is not found", f"python -c 'import {where}'") from error
        make = getattr(code, factory, None)
        if not callable(make):
            raise CallError(
                f"{name}: {where} has no function {factory}", f"python -c 'import {where}; print(dir({where}))'"
            )
        with loading(name, "") as (messages, _):
            try:
                module = make()
            except ExportError:
                raise
            except Exception as error:  # user code may raise anything; it is reported, not swallowed
                raise ExportError(
                    f"{name}: factory raised {type_and_text(error)}{messages.quoted()}",
                    f"call {factory}() yourself",
                ) from error
    finally:
        sys.path.remove(working_folder)
    if not isinstance(module, nn.Module):
        raise ExportError(f"{name}: factory returned {type(module).__name__}; it must return a torch.nn.Module")
    return module


def _torch_outputs(module: nn.Module, head: str | None, size: list[int], name: str) -> Tower:
    if head:
        try:
            module.get_submodule(head)
        except AttributeError as error:
            known = [path for path, layer in module.named_modules() if isinstance(layer, nn.Linear)]
            layers = ", ".join(known) or "none"
            hint = f"--head {known[-1]}" if known else ""
            raise CallError(f"{name}: head {head} is not found; linear layers: {layers}", hint) from error
        representation = Output("representation", f"input of {head}", "head_input")
        logits = Output("logits", f"class logits: output of {head}", "logits")
        return head_tap(module, head), (representation, logits)
    try:
        with quiet(), torch.no_grad():
            output = module.eval()(torch.zeros(1, 3, *size))
    except Exception as error:  # user code may raise anything
        raise ExportError(
            f"{name}: forward raised {type_and_text(error)}", "it takes one (batch, 3, height, width) tensor"
        ) from error
    if isinstance(output, Tensor):
        return as_rows(module), (Output("representation", _RETURNED, "encoder_output"),)
    names = output.keys() if isinstance(output, dict) else set()
    if "representation" not in names or names - {"representation", "pooled", "logits"}:
        kind = type(output).__name__
        if isinstance(output, dict):
            kind = f"a dict with {', '.join(map(str, output))}"
        raise ExportError(
            f"{name}: forward returned {kind}; it must return a tensor, or a dict with representation "
            "and, if there are any, pooled and logits",
            "or name the last linear layer: --head NAME",
        )
    # next to logits, the representation is what the last linear layer reads; alone it is an encoder's output
    rule = "head_input" if "logits" in names else "encoder_output"
    outputs = [Output("representation", _RETURNED, rule)]
    if "pooled" in names:
        outputs.append(Output("pooled", "pooled features returned by the module", "pooled"))
    if "logits" in names:
        outputs.append(contract.LOGITS)
    names_in_order = [each.name for each in outputs]
    return as_rows(module, names_in_order), tuple(outputs)
