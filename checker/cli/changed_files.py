"""Compare what the graphs of a changed file and of its original show, before the contract is taken over.

Imports what is heavy at the top, for `export` imports it when it runs.
"""

from pathlib import Path

from ..core.evidence import scaled_alike
from ..core.model.contract import EXPORT_AGAIN, Contract
from ..core.model.image_input import ImageInput
from ..core.model.open import ModelFile, open_model
from ..core.verdict.pixels import steps_text
from ..errors import CannotAssessError, UsageError
from ..text import quoted, short_digest


def read_pair(path: Path, original: Path) -> str:
    """Return the digest of a changed file's original, whose contract may hold for both, as reports show it.

    Args:
        path: the changed file, which still has the contract of the original.
        original: the file as it was exported.

    Raises:
        UsageError, CannotAssessError: as `open_model`; the files are not a changed file and its unchanged original
            (exit 2); by their graphs they have other inputs, scale them otherwise, or that can't be read (exit 3).
    """
    old = open_model(original)
    old_contract = _unchanged(old)
    new = open_model(path)
    _require_same_contract(new, old, old_contract)
    _require_same_input(new, old)
    _require_same_scaling(new, old)
    return old.file.digest


def _unchanged(old: ModelFile) -> Contract:
    """Return the contract of the original, which must be for its graph and weights."""
    look = f"robustcheck inspect {quoted(old.path)}"
    if old.contract is None:
        raise UsageError(
            f"{old.path}: contract is missing; --original is the file that `robustcheck export` wrote", look
        )
    if old.file_changed is None:
        raise UsageError(
            f"{old.path}: contract has no graph_digest, which must show that --original is unchanged", EXPORT_AGAIN
        )
    if old.file_changed:
        raise UsageError(
            f"{old.path}: graph or weights are not those that its contract was written for; --original must be the "
            "unchanged file",
            look,
        )
    return old.contract


def _require_same_contract(new: ModelFile, old: ModelFile, old_contract: Contract) -> None:
    """Refuse a file that is not changed, or whose contract is another than its original's."""
    if new.contract is None:
        raise UsageError(
            f"{new.path}: contract is missing; --original is for a file that kept the contract of its original",
            f"robustcheck export onnx {quoted(new.path)} --preprocess clip -o "
            f"{quoted(new.path.with_suffix('.contract.onnx'))}  # or imagenet, or a JSON file",
        )
    if new.file_changed is False:
        raise UsageError(
            f"{new.path}: graph and weights are those that its contract was written for; no other is needed",
            f"robustcheck {quoted(new.path)}",
        )
    if new.contract.graph_digest != old_contract.graph_digest:
        ours = short_digest(new.contract.graph_digest or "no digest")
        theirs = short_digest(old_contract.graph_digest or "")
        raise UsageError(
            f"{new.path}: contract is for another file ({ours}) than {old.path} ({theirs}); --original must be the "
            "file that it was made from",
            f"robustcheck inspect {quoted(new.path)}",
        )
    ours_fields = new.contract.model_dump()
    theirs_fields = old_contract.model_dump()
    other = [name for name, value in theirs_fields.items() if ours_fields[name] != value]
    if other:
        raise UsageError(
            f"{new.path}: contract differs from that of {old.path} in {', '.join(other)}; it must be the same",
            EXPORT_AGAIN,
        )


def _require_same_input(new: ModelFile, old: ModelFile) -> None:
    """Refuse another type, layout or size of the image input, and outputs of another type."""
    ours = new.image_input
    theirs = old.image_input
    if _kind(ours) != _kind(theirs):
        raise CannotAssessError(
            f"{new.path}: image input is {_kind(ours)}, and that of {old.path} is {_kind(theirs)}; one contract "
            "can't hold for both",
            EXPORT_AGAIN,
        )
    if ours.batch not in (None, 1, theirs.batch):
        raise CannotAssessError(
            f"{new.path}: batch of the image input is {ours.batch}; it must be dynamic or 1", EXPORT_AGAIN
        )
    types = {output.name: output.dtype for output in new.outputs}
    for output in old.outputs:
        if output.dtype != types.get(output.name, output.dtype):
            raise CannotAssessError(
                f"{new.path}: output {output.name} is {types[output.name]}, and in {old.path} {output.dtype}; one "
                "contract can't hold for both",
                EXPORT_AGAIN,
            )


def _kind(image: ImageInput) -> str:
    """Write the type, layout, channels and size of an input, whatever its batch."""
    height = image.height or "any"
    width = image.width or "any"
    return f"{image.dtype} {image.layout}, {image.channels or 'any'} channels of {height} by {width} px"


def _require_same_scaling(new: ModelFile, old: ModelFile) -> None:
    """Refuse graphs that scale pixels in other ways: pixels would be scaled twice, or not at all."""
    for model in (new, old):
        if not model.knows_scalings:
            raise CannotAssessError(
                f"{model.path}: what the graph does to its input before the first layer can't be read; it must be the "
                "same in both files",
                EXPORT_AGAIN,
            )
    if not scaled_alike(new.scalings, old.scalings):
        raise CannotAssessError(
            f"{new.path}: graph {_scaling_text(new)}, and that of {old.path} {_scaling_text(old)}; with one contract, "
            "pixels would be scaled twice or not at all",
            EXPORT_AGAIN,
        )


def _scaling_text(model: ModelFile) -> str:
    """Write what a graph does to its input before the first layer."""
    if not model.scalings:
        return "does not scale its input"
    return f"computes {' and '.join(map(steps_text, model.scalings))} of its input"
