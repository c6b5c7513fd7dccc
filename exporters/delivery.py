"""Check where a file goes, prove its draft, and put it in place."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import CallError, MissingError, Tell, contract, forms, nearest, quiet, quoted
from .contract import Photos
from .forms import Tried
from .photos import PARITY_PHOTOS, QuantisationPlan
from .preprocessing import Fields
from .proof import EXACT_SUMS, Agreement, Original, batches_of, int8_sums, measure

if TYPE_CHECKING:
    import onnx
INLINE_LIMIT_BYTES = 2_000_000_000  # a protobuf message ends at 2 GiB; the rest is room for the graph


class ExportRecord(NamedTuple):
    """What was written, for the person who asked.

    size_bytes: with the weights next to the file. outputs: name → number of features. calibrated_on: photos that
    int8-qdq took its ranges from; 0 for other precisions. batches: the batch sizes that were compared.
    forms: those of int8-qdq that were tried. form: the name of the written one, else empty.
    """

    path: Path
    size_bytes: int
    outputs: Mapping[str, int]
    parity: Agreement
    calibrated_on: int
    precision: str
    batches: tuple[int, ...]
    forms: tuple[Tried, ...] = ()
    form: str = ""


class Drawn(NamedTuple):
    """A draft's graph, the forms that were tried for it, and the one that it has."""

    model: onnx.ModelProto
    forms: Sequence[Tried] = ()
    chosen: Tried | None = None


def check_call(path: Path, precision: str, photos: Photos) -> None:
    """Refuse a wrong target, precision or number of photos.

    Raises:
        ExportError: 2 for the call, 4 for a folder that can't be written.
    """
    where = quoted(path.parent)
    if precision not in contract.PRECISIONS:
        near = nearest(precision, contract.PRECISIONS)
        raise CallError(
            f"precision is {precision}; it must be one of {', '.join(contract.PRECISIONS)}", f"--precision {near}"
        )
    if Path(os.path.realpath(path)).is_symlink():
        raise CallError(f"{path}: target is a link that leads in a circle; it must be a file", f"ls -ld {where}")
    if path.is_dir():
        raise CallError(f"{path}: target is a folder; it must be a file", f"-o {quoted(path / 'model.onnx')}")
    if path.suffix != ".onnx":
        raise CallError(
            f"{path}: suffix is {path.suffix!r}; it must be .onnx", f"-o {quoted(path.with_suffix('.onnx'))}"
        )
    if not path.parent.is_dir():
        raise CallError(
            f"{path}: folder {path.parent} is missing; models are written into existing folders", f"mkdir -p {where}"
        )
    if not os.access(path.parent, os.W_OK):
        raise MissingError(
            f"{path}: folder {path.parent} is not writable; the model is written into it", f"ls -ld {where}"
        )
    if len(photos) < PARITY_PHOTOS:
        raise CallError(
            f"number of parity photos is {len(photos)}; it must be at least {PARITY_PHOTOS}", "--parity-images FOLDER"
        )


def deliver(
    path: Path,
    draw: Callable[[Path], Drawn],
    content: Fields,
    original: Original,
    plan: QuantisationPlan,
    tell: Tell,
) -> ExportRecord:
    """Write a draft, prove it, add the contract, and move the file into place.

    Args:
        path: an existing file is replaced; more than 2 GB of weights go to `path` + ".data".
        draw: writes the draft.
        content: the contract without precision and parity.

    Raises:
        ExportError: 3 where the file disagrees, 4 for the disk. Nothing is left.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".robustcheck-export-", dir=path.parent) as folder, quiet():
            draft = Path(folder) / path.name
            model, tried, chosen = draw(draft)
            tell("comparing the file with the original")
            batches = batches_of(model.graph.input[0])
            agreement = measure(draft, original, plan.precision)
            parity: Fields = {**agreement._asdict(), "batches": batches, "photos": PARITY_PHOTOS}
            if plan.precision in contract.INT8:
                parity["int8_sums"] = {"plain": int8_sums(), "exact": int8_sums(EXACT_SUMS)}
            if chosen is not None:
                parity["form"] = forms.recorded(chosen, len(plan.measured))
            content = {**content, "precision": plan.precision, "parity": parity}
            contract.embed(model, content, draft.parent)
            draft.write_bytes(model.SerializeToString(deterministic=True))
            size = _put_in_place(draft, path)
    except OSError as error:
        where = quoted(path.parent)
        raise MissingError(
            f"{path}: file could not be written ({error.strerror or error}); nothing is left",
            f"df -h {where}; ls -ld {where}",
        ) from error
    return ExportRecord(
        path,
        size_bytes=size,
        outputs={name: rows.shape[1] for name, rows in original.outputs.items()},
        parity=agreement,
        calibrated_on=len(plan.calibration),
        precision=plan.precision,
        batches=batches,
        forms=tuple(tried),
        form="" if chosen is None else chosen.form.name,
    )


def has_big_weights(size_bytes: int) -> bool:
    """Return whether weights must lie next to their graph."""
    return size_bytes > INLINE_LIMIT_BYTES


def data_of(path: Path) -> Path:
    """Return the file of the weights next to an ONNX file."""
    return path.with_name(path.name + ".data")


def _put_in_place(draft: Path, path: Path) -> int:
    """Move a file after its weights, so that it finds them, and return the size of both."""
    size = draft.stat().st_size
    weights = data_of(draft)
    if not weights.exists():
        draft.replace(path)
        return size
    size += weights.stat().st_size
    placed = weights.replace(data_of(path))
    try:
        draft.replace(path)
    except OSError:
        placed.unlink()
        raise
    return size
