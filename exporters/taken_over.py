"""Take the contract of an exported file over for the file that another tool made of it. Needs no torch.

The contract may hold for the new file only if both files make the same of the same pixels. What their graphs show is
compared by the caller; here both are run on photos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import CallError, ExportError, Tell, contract, ignore_progress
from .contract import Photos
from .delivery import Drawn, ExportRecord, check_call, deliver
from .files import check_target, contract_of, copied_to, inlined, outputs_in, outputs_of, parsed
from .forms import outlier_features, standardised
from .photos import FEWEST_MEASURED_PHOTOS, PARITY_PHOTOS, QuantisationPlan, stacked
from .plain import command_of, precision_of
from .preprocessing import Array, Fields, checked_preprocessing, preprocess
from .proof import CRASHES, Original, run_file

if TYPE_CHECKING:
    import onnx

ReadPair = Callable[[Path, Path], str]
"""gets the changed file and its original, refuses a pair of which one contract cannot hold for both, and returns the
digest of the original"""

# EfficientNet-Lite0 and the planted demo, quantised per channel by ONNX Runtime, keep 0.97 or more (bundled photos)
LEAST_KEPT = 0.5  # of what differs between photos
# Of files without a step of the preprocessing in their graph, other pixels are at least 1.6 times as far; of files with
# one, at most 0.5 times
NEARER = 0.8
# Quantised as above, outlier features have 0.91 to 1.07 of their strength
MOST_STRONGER = 1.25
STEPS = (
    ("before the division by std", {"std": [1.0] * 3}),
    ("before mean and std", {"mean": [0.0] * 3, "std": [1.0] * 3}),
    ("as they are, 0 to 255", {"rescale": 1.0, "mean": [0.0] * 3, "std": [1.0] * 3}),
)
"""pixels of a file whose graph does the last steps of the preprocessing itself"""
SWAPPED = {"RGB": "BGR", "BGR": "RGB"}


class Pair(NamedTuple):
    """A changed file and its original, each with its graph, and what both are fed by.

    precision: of the changed file. fields: of the contract's preprocessing. hint: the next step where they disagree.
    """

    path: Path
    proto: onnx.ModelProto
    original: Path
    precision: str
    fields: Fields
    hint: str


def take_over(
    path: Path,
    original: Path,
    out: Path,
    *,
    photos: Photos,
    read_pair: ReadPair,
    tell: Tell = ignore_progress,
) -> ExportRecord:
    """Write a changed file with the contract of its original, from which it says that it was taken over.

    Both files run photo by photo on ONNX Runtime's CPU provider. The new contract has the preprocessing, the tensors
    and the source of the old one, and the parity of the changed file with its original.

    Args:
        path: the changed file, which still has the contract of the original. original: the file as it was exported.
        out: another file, ends in .onnx.
        photos: at least 5 image files; the first 32 are used.

    Raises:
        ExportError: 2 for the call, 3 where the two make different things of the same pixels, 4 for the disk. Nothing
            is left.
    """
    check_call(out, "fp32", photos)
    tell(f"opening {path.name}")
    digest = read_pair(path, original)
    proto = inlined(parsed(path))
    theirs = inlined(parsed(original))
    content = contract_of(proto, path)
    check_target(path, out, proto)
    check_target(original, out, theirs)
    outputs = outputs_in(proto, path, content)
    precision = precision_of(proto)
    fields = checked_preprocessing(content["preprocessing"], str(path))
    pair = Pair(path, proto, original, precision, fields, _hint(original, out, content["precision"], precision))
    used = photos[:FEWEST_MEASURED_PHOTOS]
    images = stacked(used, partial(preprocess, fields), str(path))
    tell("running the original on the photos")
    options = {"disabled_optimizers": CRASHES.get(content["precision"], [])}
    reference = outputs_of(original, theirs, images, outputs, **options)
    tell("running the file on the photos")
    rows = outputs_of(path, proto, images, outputs, disabled_optimizers=CRASHES.get(precision, []))
    name = contract.EMBEDDING.name
    _require_same_width(pair, reference[name], rows[name])
    _require_same_pixels(pair, used[:PARITY_PHOTOS], reference[name], rows[name])
    _require_kept(pair, reference[name], rows[name])
    _require_no_new_outlier(pair, reference[name], rows[name])
    first = {output: array[:PARITY_PHOTOS] for output, array in reference.items()}
    proof = Original(images[:PARITY_PHOTOS], first, pair.hint)

    def draw(draft: Path) -> Drawn:
        copied_to(draft, path, proto)
        return Drawn(parsed(draft))

    content["taken_over_from"] = {"file": original.name, "digest": digest}
    content["versions"] |= contract.versions()
    return deliver(out, draw, content, proof, QuantisationPlan(precision), tell)


def refuse_other_options(path: Path, original: Path, out: Path, precision: str, given: list[str]) -> None:
    """Refuse options of a call that only takes a contract over.

    given: the names of such options.

    Raises:
        ExportError: one is given, or a precision to convert to (exit 2).
    """
    if given:
        raise CallError(
            f"--{given[0]} is given with --original; the contract of {original} is taken over as it is",
            command_of(path, out, "--original", str(original)),
        )
    if precision != "fp32":
        raise CallError(
            f"--precision is {precision} with --original; the file keeps its own precision",
            f"{command_of(path, out, '--original', str(original))}  # or from the original: "
            f"{command_of(original, out, '--precision', precision)}",
        )


def _hint(original: Path, out: Path, old_precision: str, precision: str) -> str:
    """Return how the file is made again with a contract of its own."""
    if old_precision == "fp32" and precision in contract.PRECISIONS[1:]:
        better = contract.INT8[-1] if precision in contract.INT8 else precision
        return command_of(original, out, "--precision", better)
    return "export the model again with `robustcheck export`"


def _require_same_width(pair: Pair, reference: Array, rows: Array) -> None:
    if reference.shape != rows.shape:
        raise ExportError(
            f"{pair.path}: representation has {rows.shape[1]} features, and that of {pair.original} "
            f"{reference.shape[1]}; a contract holds for one representation",
            pair.hint,
        )


def _require_same_pixels(pair: Pair, photos: Photos, reference: Array, rows: Array) -> None:
    """Refuse a file that gives the original's vectors for pixels at an earlier step of the preprocessing.

    A tool may have put the scaling, or the order of the channels, into the first layer, where no one can read it.
    """
    here = slice(len(photos))
    usual = _distance(rows[here], reference[here])
    if not usual:
        return
    distances = {}
    for words, fields in _earlier(pair.fields):
        images = stacked(photos, partial(preprocess, fields), str(pair.path))
        runs, _ = run_file(
            pair.path,
            [contract.EMBEDDING.name],
            [image[None] for image in images],
            f"{pair.path}: ONNX Runtime could not run it",
            pair.hint,
            graph=pair.proto.SerializeToString(),
            disabled_optimizers=CRASHES.get(pair.precision, []),
        )
        distances[words] = _distance(np.concatenate([row for (row,) in runs]), reference[here])
    nearest = min(distances, key=distances.__getitem__)
    if distances[nearest] < NEARER * usual:
        raise ExportError(
            f"{pair.path}: its vectors are those of {pair.original} for pixels {nearest}, not for those that the "
            "contract makes; the graph does a part of the preprocessing itself",
            pair.hint,
        )


def _earlier(fields: Fields) -> Iterator[tuple[str, Fields]]:
    """Yield the pixels that a graph with a part of the preprocessing gets, in words and as fields."""
    orders = {"": fields["color_order"], ", with red and blue exchanged": SWAPPED[fields["color_order"]]}
    for remark, order in orders.items():
        for words, changes in (("as the contract makes them", {}), *STEPS):
            changed = fields | changes | {"color_order": order}
            if changed != fields:
                yield words + remark, changed


def _distance(rows: Array, reference: Array) -> float:
    """Return the sum of squared differences; infinite where a value is not finite."""
    difference = rows.astype(np.float64) - reference
    return float((difference**2).sum()) if np.isfinite(difference).all() else np.inf


def _require_kept(pair: Pair, reference: Array, rows: Array) -> None:
    """Refuse a file whose vectors tell the photos apart in another way than the original's."""
    mean = reference.mean(axis=0, keepdims=True, dtype=np.float64)
    varies = _distance(np.broadcast_to(mean, reference.shape), reference)
    kept = 1 - _distance(rows, reference) / varies if varies else 0.0
    if kept < LEAST_KEPT:
        raise ExportError(
            f"{pair.path}: of what differs between the vectors of {len(rows)} photos in {pair.original}, it keeps "
            f"{100 * max(kept, 0):.0f} %; at least {100 * LEAST_KEPT:.0f} % is needed",
            pair.hint,
        )


def _require_no_new_outlier(pair: Pair, reference: Array, rows: Array) -> None:
    """Refuse a file that has an outlier feature which the original has not, or a weaker one.

    A damaged weight makes such a feature; one that is only quantised does not.
    """
    was = standardised(reference).mean(axis=0)
    now = standardised(rows).mean(axis=0)
    for feature, side in outlier_features(rows).items():
        before, after = side * was[feature], side * now[feature]
        if after > MOST_STRONGER * max(before, 0):
            raise ExportError(
                f"{pair.path}: feature {feature} is {after:.1f} SD from the others, and in {pair.original} "
                f"{before:.1f}; an outlier feature that comes from the change may be a damaged weight",
                pair.hint,
            )
