"""Load torch models strictly: those of timm, torchvision, or own code."""

import contextlib
import copy
import difflib
import importlib
import math
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import CallError, ExportError, Messages, MissingError, contract, first_mismatch, load_error, quiet
from .contract import Fields, Loaded, Output, Source, Wanted, checked_preprocessing, loaded, source_of, weights_file

Rows = tuple[Tensor, ...]
Tower = tuple[nn.Module, contract.Outputs]

RANDOM_SEED = 0  # of weights that were asked to be random; makes the file reproducible
NAME_THE_HEAD = "export it with `robustcheck export torch package.module:factory --head NAME`"  # a hint
SLOW = {"googlenet", "inception_v3"}  # torchvision's own initialisation of them takes seconds
# torchvision re-normalises the input inside them when it loads its own weights, and only then; a checkpoint file
# without that would be another model
AS_PUBLISHED = {name: {"init_weights": False, "transform_input": True} for name in SLOW}


def load_timm(wanted: Wanted) -> Loaded:
    """Load a timm classifier or encoder.

    A classifier's representation is the input of its last linear layer; its logits come with it.

    A classifier with heads on several stages becomes an encoder: the representation is the joint input of its heads.

    Args:
        wanted: its name is "architecture", "architecture.tag", "hf-hub:org/repo" or "local-dir:path"; without weights
            the tag in it counts, or timm's default tag. A checkpoint file needs preprocessing when the name has no
            tag and the published tags differ in theirs.

    Raises:
        ExportError: unknown name or tag (exit 2); weights do not fit, or the head is not found (3); weights
            not reachable (4).
    """
    import timm

    name, path = wanted.name, weights_file(wanted.weights)
    has_schema = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if wanted.weights and path is None:
        if has_schema or "." in name:
            raise CallError(
                f"{name}: weights is {wanted.weights}; the name already says which weights",
                "drop --weights, or give a checkpoint file",
            )
        name = f"{name}.{wanted.weights}"
    if not has_schema:
        check_timm(name)
    overlay = {"file": str(path), "custom_load": path.suffix == ".npz"} if path else None
    is_pretrained = not wanted.random_weights
    with loading(name, _timm_place(name)) as (messages, loads):
        model = timm.create_model(name, pretrained=is_pretrained, pretrained_cfg_overlay=overlay, exportable=True)
    for result in loads:
        refuse_partial(name, *result)
    npz = path is not None and path.suffix == ".npz"  # timm's loader for JAX files copies tensor by tensor
    if is_pretrained and not loads and not npz:
        raise ExportError(f"{name}: weights were not loaded; {' | '.join(messages[-1:])}", "give --weights FILE")
    model.eval()
    config = timm.data.resolve_model_data_config(model)
    if path and not wanted.preprocessing and not has_schema and "." not in name:
        config = contract.shared_preprocessing(published_timm(name), name)
    pixels = wanted.pixels() or (timm_contract(config, name), timm.data.create_transform(**config, is_training=False))
    public = contract.without_folders(name)
    # before a head is fused
    source = source_of("timm", public, path, model.pretrained_cfg.get("tag") or public, model)
    return loaded(wanted, source, *_timm_outputs(model, name), pixels, "timm", "torchvision")


def check_timm(name: str, tag: str | None = None) -> None:
    """Refuse a model or tag that timm lacks. The error has the closest names (exit 2)."""
    import timm

    name = f"{name}.{tag}" if tag and "." not in name else name
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        rule = f"timm {timm.__version__}; it must be in timm.list_models()"
        contract.refuse_name(architecture, timm.list_models(), name, rule)
    full = [t.partition(".")[2] for t in timm.models.get_arch_pretrained_cfgs(architecture)]
    if tag and tag not in full:
        raise CallError(
            f"{name}: tag is {tag}; it must be one of {', '.join(filter(None, full)) or 'none published'}",
            f"robustcheck export timm {architecture}.{(difflib.get_close_matches(tag, full, 1) or full)[0]}",
        )


def shell_timm(name: str) -> nn.Module:
    """Return a model without weights."""
    import timm

    return timm.create_model(name)


def timm_contract(config: Fields, name: str) -> Fields:
    """Return timm's data config as contract fields. Photos are resized to floor(size / crop_pct), then cropped.

    crop_mode center → shortest edge, squash → both edges, border → longest edge and padding with the mean.
    """
    _, height, width = config["input_size"]
    mode = {"center": "shortest", "squash": "squash", "border": "longest"}.get(config["crop_mode"])
    if mode is None:
        raise CallError(
            f"{name}: crop mode is {config['crop_mode']}; it must be center, squash or border",
            "give --preprocess FILE",
        )
    fields = {
        "size": [height, width],
        "resize_mode": mode,
        "resize_size": [math.floor(edge / config["crop_pct"]) for edge in (height, width)],
        "interpolation": config["interpolation"],
        "fill": [round(255 * m) for m in config["mean"]] if mode == "longest" else [0, 0, 0],
        "mean": config["mean"],
        "std": config["std"],
    }
    return checked_preprocessing(fields, name)


def published_timm(name: str) -> dict[str, Fields]:
    """Return the preprocessing of each published tag."""
    import timm

    configs = timm.models.get_arch_pretrained_cfgs(name).items()
    return {t: timm.data.resolve_data_config(pretrained_cfg=c.to_dict()) for t, c in configs if c.has_weights}


def _timm_place(name: str) -> str:
    import timm

    schema, _, repo = name.partition(":")
    if schema == "local-dir":
        return f"place config.json and model.safetensors in {repo}"
    if not repo:
        repo = str(getattr(timm.models.get_pretrained_cfg(name), "hf_hub_id", None) or "timm/")
        repo += name if repo.endswith("/") else ""
    return contract.from_hub(repo)


def _timm_outputs(model: Any, name: str) -> Tower:
    head = model.get_classifier()
    place = next((n for n, m in model.named_modules() if m is head), None)
    if hasattr(head, "fuse"):  # a norm and one or two linear layers, which are one (RepViT, iFormer)
        model.set_submodule(place, head.fuse())
        head = model.get_classifier()
    if isinstance(head, nn.ModuleList):  # heads on several stages: their joint input, without logits
        model.reset_classifier(0)
    if isinstance(head, (tuple, list)):
        raise ExportError(
            f"{name}: classifier is {len(head)} heads; it is not clear which one the representation belongs to",
            NAME_THE_HEAD,
        )
    if isinstance(head, nn.Identity | nn.ModuleList):
        return as_rows(model), (Output("representation", "pooled features", "encoder_output"),)
    if place is None or not isinstance(head, (nn.Linear, nn.Conv2d)):
        raise ExportError(f"{name}: classifier is {type(head).__name__}; a linear layer is needed", NAME_THE_HEAD)
    tapped = head_tap(model, place)
    # the classifier is CLIP's projection: a clip name whose tag has no labelled finetuning
    label = f"{name} {model.pretrained_cfg.get('architecture', '')}.{model.pretrained_cfg.get('tag', '')}"
    if "clip" in label.lower() and re.search(r"in(1k|12k|21k|22k)", label) is None:
        return swapped(tapped), (
            contract.EMBEDDING,
            Output("pooled", f"input of {place}, the projection", "pooled"),
        )
    return tapped, contract.classifier_outputs(place)


def load_torchvision(wanted: Wanted) -> Loaded:
    """Load a torchvision classifier. The representation is the input of its last linear layer.

    Args:
        wanted: its name is a classification model of torchvision.models.list_models(), its weights an entry such as
            IMAGENET1K_V1, or a checkpoint file; without them torchvision's DEFAULT entry. A file with torchvision's
            own name (resnet18-f37072fd.pth) is recognised by its digest; another one needs preprocessing when the
            entries of the name differ in theirs.

    Raises:
        ExportError: unknown name or entry (exit 2); weights do not fit (3); not reachable (4).
    """
    from torchvision.models import get_model, get_model_weights

    name, tag = wanted.name, wanted.weights
    check_torchvision(name)
    path = weights_file(tag)
    entries = get_model_weights(name)
    if path:
        digest = contract.file_digest(path)
        # torchvision puts the first digits of a file's SHA-256 into its name
        prefixes = {str(each.url).rsplit("-", 1)[-1].partition(".")[0]: each for each in entries}
        entry: Any = next((each for prefix, each in prefixes.items() if digest[7:].startswith(prefix)), None)
    else:
        check_torchvision(name, tag)
        entry = entries.__members__[tag or "DEFAULT"]
    published = entry or next(iter(entries))
    weights = None if path or wanted.random_weights else entry
    place = f"download {published.url} and give it with --weights FILE"
    with loading(name, place, is_quoted=False):
        model = get_model(name, weights=weights, **AS_PUBLISHED.get(name, {}))
    if path:
        load_strictly(model, path, name)
        if not entry and not wanted.preprocessing:
            contract.shared_preprocessing({e.name: torchvision_contract(e.transforms(), name) for e in entries}, name)
    transform = published.transforms()
    pixels = wanted.pixels() or (torchvision_contract(transform, name), transform)
    with quiet():
        head = find_head(model.eval(), pixels[0]["size"])
    source = source_of("torchvision", name, path, published.name, model)
    return loaded(wanted, source, head_tap(model, head), contract.classifier_outputs(head), pixels, "torchvision")


def check_torchvision(name: str, tag: str | None = None) -> None:
    """Refuse a classifier or weights that torchvision lacks. The error has the closest names (exit 2)."""
    import torchvision

    contract.refuse_name(
        name,
        torchvision.models.list_models(module=torchvision.models),
        name,
        f"torchvision {torchvision.__version__}; it must be a classification model of it",
        "list them: torchvision.models.list_models()",
    )
    known = list(torchvision.models.get_model_weights(name).__members__)
    if tag and tag not in known:
        raise contract.unknown_tag(name, tag, known)


def shell_torchvision(name: str) -> nn.Module:
    """Return a model without weights."""
    from torchvision.models import get_model

    return get_model(name, weights=None, **({"init_weights": False} if name in SLOW else {}))


def torchvision_contract(transform: Any, name: str) -> Fields:
    """Return torchvision's ImageClassification preset in the contract's fields."""
    crop, resize = (
        [*edges] * 2 if len(edges) == 1 else edges for edges in (transform.crop_size, transform.resize_size)
    )
    fields = {
        "size": crop,
        "resize_mode": "shortest" if len(transform.resize_size) == 1 else "squash",
        "resize_size": resize,
        "interpolation": transform.interpolation.value,
        "mean": transform.mean,
        "std": transform.std,
    }
    return checked_preprocessing(fields, name)


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
    name, path = wanted.name, weights_file(wanted.weights)
    if wanted.weights and path is None:
        raise MissingError(f"{wanted.weights}: weights file is missing")
    module = _made(name)
    if path is not None:
        load_strictly(module, path, name)
    origin = path.name if path else str(getattr(module, "weights", ""))
    if not origin and not wanted.random_weights:
        raise contract.random_weights_error(
            name, "set the module's attribute `weights`, or give --weights FILE or --random-weights"
        )
    fields = wanted.preprocessing or getattr(module, "preprocessing", None)
    if not isinstance(fields, dict):
        raise CallError(
            f"{name}: preprocessing is not given; the module has no attribute `preprocessing`",
            'give --preprocess FILE (a JSON object, see the page "Your ONNX file")',
        )
    fields = checked_preprocessing(fields, name)
    digest = contract.file_digest(path) if path else getattr(module, "weights_digest", "")
    wrapped, outputs = _torch_outputs(module, wanted.head, fields["size"], name)
    source = Source(
        library="torch",
        name=name,
        weights=origin,
        weights_digest=str(digest) if digest and not wanted.random_weights else contract.state_digest(module),
        synthetic=str(getattr(module, "synthetic", "")),
    )
    return loaded(wanted, source, wrapped, outputs, (fields, contract.as_transform(fields)))


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
                    f"{name}: factory raised {type(error).__name__}: {error}{messages.quoted()}",
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
            known = [n for n, m in module.named_modules() if isinstance(m, nn.Linear)]
            raise CallError(
                f"{name}: head {head} is not found; linear layers: {', '.join(known) or 'none'}",
                f"--head {known[-1]}" if known else "",
            ) from error
        return head_tap(module, head), (
            Output("representation", f"input of {head}", "head_input"),
            Output("logits", f"class logits: output of {head}", "logits"),
        )
    try:
        with quiet(), torch.no_grad():
            output = module.eval()(torch.zeros(1, 3, *size))
    except Exception as error:  # user code may raise anything
        raise ExportError(
            f"{name}: forward raised {type(error).__name__}: {error}", "it takes one (batch, 3, height, width) tensor"
        ) from error
    has_logits = isinstance(output, dict) and "logits" in output
    # next to logits, the representation is what the last linear layer reads; alone it is an encoder's output
    known_outputs = (
        Output(
            "representation", "representation returned by the module", "head_input" if has_logits else "encoder_output"
        ),
        Output("pooled", "pooled features returned by the module", "pooled"),
        contract.LOGITS,
    )
    if isinstance(output, Tensor):
        return as_rows(module), known_outputs[:1]
    if not isinstance(output, dict) or "representation" not in output or set(output) - {o.name for o in known_outputs}:
        shape = f"a dict with {', '.join(map(str, output))}" if isinstance(output, dict) else type(output).__name__
        raise ExportError(
            f"{name}: forward returned {shape}; it must return a tensor, or a dict with representation "
            "and, if there are any, pooled and logits",
            "or name the last linear layer: --head NAME",
        )
    outputs = tuple(o for o in known_outputs if o.name in output)
    return as_rows(module, [o.name for o in outputs]), outputs


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
            f"{path}: checkpoint does not fit {name} ({first_mismatch(error)}); every weight must fit",
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


def find_head(model: nn.Module, size: Sequence[int]) -> str:
    """Return the dotted name of the last linear layer of a classifier.

    It is the last Linear or Conv2d that a forward pass calls, and the width of its output is the width of the
    logits. Followed in execution, not in definition order.

    Raises:
        ExportError: the last layer is called several times, or its width is not that of the logits: two
            heads, or no classifier (exit 3).
    """
    calls: list[tuple[str, Tensor]] = []

    def recorder(name: str) -> Any:
        return lambda _module, _inputs, output: calls.append((name, output))

    handles = [
        module.register_forward_hook(recorder(name))
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    try:
        logits = run_eager(model, torch.zeros(2, 3, *size), type(model).__name__)
    finally:
        for handle in handles:
            handle.remove()
    name, output = calls[-1] if calls else ("", torch.empty(0))
    is_tensor = isinstance(logits, Tensor) and logits.ndim == 2
    direct = is_tensor and output.ndim == 2 and torch.equal(output, logits)
    pooled_after = is_tensor and output.ndim == 4 and output.shape[1] == logits.shape[1]
    if not (direct or pooled_after) or sum(called == name for called, _ in calls) != 1:
        raise ExportError(
            f"{type(model).__name__}: last linear layer is not found; it is not clear which tensor the logits come "
            "from",
            NAME_THE_HEAD,
        )
    return name


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
