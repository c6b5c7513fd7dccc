"""Writes one ONNX file from a loaded model: export, prove parity, add the contract, put it in place."""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import contract, parity, preprocess, quantize
from .contract import Loaded, Source
from .digest import graph_digest
from .errors import ENVIRONMENT, USAGE, ExportError, first_line, install_hint
from .loading import file_digest
from .messages import Messages, quiet, untold

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 20  # torch 2.9–2.13 write it without conversion; ONNX Runtime reads it from 1.17 on
PARITY_PHOTO = ("photo", "parity is measured on real photos", "--parity-images FOLDER")  # for preprocess.open_photo
INLINE_LIMIT_BYTES = 2_000_000_000  # a protobuf message ends at 2 GiB; the rest is room for the graph
MAX_GREY_LEVELS = 1.0  # of 255: how far the contract's pixels may be from the source library's own
# Node metadata that helps a report. The rest (stack traces, fx nodes) holds this machine's paths.
_KEPT_METADATA = {"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"}


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """What was written, for the person who asked.

    digest: "sha256:" + hex of the .onnx file. data_path: weights beside it, None when they are inside.
    size_bytes: both files. outputs: name → number of features. messages: what the libraries said. calibrated_on: photos
    that int8-qdq took its ranges from; 0 for other precisions.
    """

    path: Path
    data_path: Path | None
    digest: str
    size_bytes: int
    outputs: Mapping[str, int]
    parity: parity.Parity
    source: Source
    precision: str
    opset: int
    messages: tuple[str, ...]
    calibrated_on: int = 0


def export(
    loaded: Loaded,
    path: Path,
    *,
    precision: str = "fp32",
    photos: Sequence[Path],
    calibration: Sequence[Path] = (),
    tell: Callable[[str], None] = untold,
) -> ExportRecord:
    """Export a loaded model to ONNX, prove that ONNX Runtime agrees with it, and only then show the file.

    The graph has one float32 input "image" (batch, channel, height, width) with a dynamic batch and one
    float32 output (batch, feature) for each of `loaded.outputs`. fp16 means float16 weights and arithmetic
    inside, float32 outside; int8-dynamic and int8-qdq are what quantize.quantise makes of the float32 file. All of
    them are compared with the float32 model. Parity is measured by parity.measure on
    the first PHOTOS photos.

    Args:
        path: ends in .onnx; an existing file is replaced. More than 2 GB of weights go to `path` + ".data".
        photos: at least 5 image files.
        calibration: image files for int8-qdq.
        tell: called with what is done, when each stage begins.

    Raises:
        ExportError: 2 for the call, 3 when no faithful file can be made, 4 for the disk. Nothing is left.
    """
    check_call(path, precision, photos)
    chosen = quantize.calibration_photos(precision, calibration, photos)
    _check_loaded(loaded)
    name = f"{loaded.source.library} {loaded.source.name}"
    images = _photos(loaded, photos)
    with quiet() as messages, _own_attention():
        tell("running the original on the photos")
        references = _references(loaded, images, name)
        tell("exporting")
        program = _traced(loaded, images, precision, name, messages)
    try:
        with tempfile.TemporaryDirectory(prefix=".robustcheck-export-", dir=path.parent) as folder:
            draft = Path(folder) / path.name
            tell("writing the file")
            model = _saved(program, draft, name)
            if precision in contract.INT8:
                tell("quantising")
                with quiet() as quantiser:
                    model = quantize.quantise(
                        draft, precision, chosen, lambda i: loaded.transform(i).numpy(), name=name, messages=quantiser
                    )
                messages.lines += quantiser.lines
            tell("comparing the file with the original")
            agreed = parity.measure(draft, images, references, precision=precision, input_name=contract.INPUT_NAME)
            content = contract.build(loaded, precision=precision, parity=agreed.for_contract())
            return finish(draft, path, model, content, references, agreed, messages, calibrated_on=len(chosen))
    except OSError as error:
        raise disk_error(path, error) from error


def disk_error(path: Path, error: OSError) -> ExportError:
    """Return the error for a file that could not be written (exit 4)."""
    return ExportError(
        f"{path}: file could not be written ({error.strerror or error}); nothing is left",
        f"df -h {shlex.quote(str(path.parent))}; ls -ld {shlex.quote(str(path.parent))}",
        exit_code=ENVIRONMENT,
    )


def check_call(path: Path, precision: str, photos: Sequence[Path]) -> None:
    """Refuse a target, a precision or photos that can't serve, before any model is loaded.

    Raises:
        ExportError: 2 for the call, 4 for a folder that can't be written.
    """
    if precision not in contract.PRECISIONS:
        known = ", ".join(contract.PRECISIONS)
        close = difflib.get_close_matches(precision, contract.PRECISIONS, 1, cutoff=0.3)
        raise ExportError(
            f"precision is {precision}; it must be one of {known}",
            f"--precision {close[0] if close else 'fp32'}",
            exit_code=USAGE,
        )
    if path.is_dir():
        raise ExportError(
            f"{path}: target is a folder; it must be a file",
            f"-o {shlex.quote(str(path / 'model.onnx'))}",
            exit_code=USAGE,
        )
    if path.suffix != ".onnx":
        raise ExportError(
            f"{path}: suffix is {path.suffix!r}; it must be .onnx",
            f"-o {shlex.quote(str(path.with_suffix('.onnx')))}",
            exit_code=USAGE,
        )
    where = shlex.quote(str(path.parent))
    if not path.parent.is_dir():
        raise ExportError(
            f"{path}: folder {path.parent} is missing; models are written into existing folders",
            f"mkdir -p {where}",
            exit_code=USAGE,
        )
    if not os.access(path.parent, os.W_OK):
        raise ExportError(
            f"{path}: folder {path.parent} is not writable; the model is written into it",
            f"ls -ld {where}",
            exit_code=ENVIRONMENT,
        )
    if len(photos) < parity.PHOTOS:
        raise ExportError(
            f"number of parity photos is {len(photos)}; it must be at least {parity.PHOTOS}",
            "--parity-images FOLDER",
            exit_code=USAGE,
        )


def _check_loaded(loaded: Loaded) -> None:
    names = [output.name for output in loaded.outputs]
    if "representation" not in names or len(set(names)) != len(names):
        raise ExportError(f"outputs are {names}; the names must differ, and representation must be one of them")
    contract.checked_preprocessing(loaded.preprocessing, loaded.source.name)


def _photos(loaded: Loaded, paths: Sequence[Path]) -> NDArray[np.float32]:
    """Preprocess the first photos with the library's transform; refuse a contract that gives other pixels."""
    arrays = []
    for path in paths[: parity.PHOTOS]:
        image = preprocess.open_photo(path, *PARITY_PHOTO)
        theirs = loaded.transform(image).numpy()
        takes = (3, *loaded.preprocessing["size"])
        if theirs.shape != takes:
            raise ExportError(
                f"{loaded.source.name}: preprocessing makes {list(theirs.shape)} of {path.name}; "
                f"it must be {list(takes)}",
                "--preprocessing FILE with resize_mode shortest or squash",
            )
        ours = preprocess.apply(loaded.preprocessing, image)
        apart = preprocess.grey_levels_apart(loaded.preprocessing, ours, theirs)
        if apart > MAX_GREY_LEVELS:
            raise ExportError(
                f"{loaded.source.name}: preprocessing in the contract is {apart:.3g} grey levels from the "
                f"library's own on {path.name}; at most {MAX_GREY_LEVELS:g}",
                "the contract cannot describe this model's preprocessing; give another with --preprocessing FILE",
            )
        arrays.append(theirs)
    return np.stack(arrays).astype(np.float32)


def _references(loaded: Loaded, images: NDArray[np.float32], name: str) -> dict[str, NDArray[np.float32]]:
    """Run the eager float32 model photo by photo: an independent result for every image."""
    import torch

    module = loaded.module.float().eval()
    if training := [n for n, m in module.named_modules() if m.training]:
        raise ExportError(
            f"{name}: module {training[0] or 'itself'} stays in training mode after eval(); inference mode is needed",
            "do not override train() or eval()",
        )
    try:
        with torch.no_grad():
            runs = [module(torch.from_numpy(image[None])) for image in images]
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # model code may raise anything; it is reported, not swallowed
        raise ExportError(
            f"{name}: model cannot run on {list(images.shape[2:])} px input ({type(error).__name__}: {error}); "
            "the preprocessing's size must be the model's",
            "check the size in the preprocessing",
        ) from error
    references = {}
    for index, output in enumerate(loaded.outputs):
        if any(not isinstance(run, tuple) or len(run) != len(loaded.outputs) for run in runs):
            raise ExportError(f"{name}: forward does not return {len(loaded.outputs)} outputs")
        rows = np.concatenate([run[index].float().numpy() for run in runs])
        if rows.ndim != 2 or len(rows) != len(images):
            raise ExportError(
                f"{name}: output {output.name} has shape {tuple(runs[0][index].shape)} for one image; it must be (1, "
                "feature)",
                "pool tokens or maps before returning them",
            )
        if not np.isfinite(rows).all():
            raise ExportError(f"{name}: output {output.name} is not finite on real photos", "check the weights")
        references[output.name] = rows
    return references


def _traced(
    loaded: Loaded, images: NDArray[np.float32], precision: str, name: str, messages: Messages
) -> torch.onnx.ONNXProgram:
    import torch

    from .wrappers import HalfPrecision

    module = HalfPrecision(loaded.module) if precision == "fp16" else loaded.module
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                # two images: a batch of one could be taken for a constant
                (torch.from_numpy(images[:2].copy()),),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim(contract.BATCH_AXIS)},),
                input_names=[contract.INPUT_NAME],
                output_names=[output.name for output in loaded.outputs],
                opset_version=OPSET,
                verbose=False,
            )
    except MemoryError:
        raise
    except Exception as error:  # torch.onnx wraps whatever the model raised; every cause ends here
        if isinstance(error, ImportError):
            raise ExportError(
                f"{name}: package {error.name or 'of the exporter'} is not importable ({error}); exporting needs it",
                install_hint("export"),
                exit_code=ENVIRONMENT,
            ) from error
        raise ExportError(
            f"{name}: torch could not export it ({first_line(error)}){messages.quoted()}",
            "the model must be traceable by torch.export; try another precision or report the model name",
        ) from error
    if program is None:
        raise ExportError(f"{name}: torch exported nothing", "report the versions of torch and onnxscript")
    return program


def _saved(program: torch.onnx.ONNXProgram, draft: Path, name: str) -> onnx.ModelProto:
    """Save the graph, with its weights beside it when they are too big, and return it for the contract."""
    import onnx

    tensors = program.model.graph.initializers.values()
    total = sum(t.const_value.nbytes for t in tensors if t.const_value is not None)
    program.save(draft, external_data=total > INLINE_LIMIT_BYTES)
    model = onnx.load(draft, load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    for item in [*nodes, *values, *model.graph.initializer, model.graph, model]:
        kept = [(p.key, p.value) for p in item.metadata_props if p.key in _KEPT_METADATA]
        del item.metadata_props[:]
        for key, value in kept:
            item.metadata_props.add(key=key, value=value)
    for value in (*model.graph.input, *model.graph.output):
        axis = value.type.tensor_type.shape.dim[0]
        if axis.dim_param != contract.BATCH_AXIS:
            raise ExportError(
                f"{name}: batch axis of {value.name} is fixed to {axis.dim_value}; it must be dynamic",
                "the model mixes the batch size into its arithmetic",
            )
    draft.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(str(draft))
    return model


def finish(
    draft: Path,
    path: Path,
    model: onnx.ModelProto,
    content: Mapping[str, Any],
    references: Mapping[str, NDArray[np.float32]],
    agreed: parity.Parity,
    messages: Messages,
    *,
    calibrated_on: int,
) -> ExportRecord:
    """Write the contract into the draft and move it to its place; the weights go first, so that the graph finds them.

    Args:
        draft: the exported file, in a folder of its own on the disk of `path`.
        model: its graph. content: of the contract. references: output name → (image, feature).
    """
    contract.embed(model, {**content, "graph_digest": graph_digest(model, draft.parent)})
    draft.write_bytes(model.SerializeToString(deterministic=True))
    beside = draft.with_name(draft.name + ".data")
    size = sum(p.stat().st_size for p in (draft, beside) if p.exists())
    digest = file_digest(draft)
    data_path = None
    if beside.exists():
        data_path = path.with_name(beside.name)
        beside.replace(data_path)
    try:
        draft.replace(path)
    except OSError:
        if data_path is not None:
            data_path.unlink()
        raise
    return ExportRecord(
        path=path,
        data_path=data_path,
        digest=digest,
        size_bytes=size,
        outputs={output: rows.shape[1] for output, rows in references.items()},
        parity=agreed,
        source=Source(**content["source"]),
        precision=content["precision"],
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        messages=tuple(messages.lines),
        calibrated_on=calibrated_on,
    )


@contextlib.contextmanager
def _own_attention() -> Iterator[None]:
    """Switch torch's fused eval-mode attention off: it has no ONNX form (pytorch/pytorch#143107)."""
    import torch

    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
