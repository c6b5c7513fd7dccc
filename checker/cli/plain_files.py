"""Read what the contract of a plain ONNX file must hold, by the rules of a check.

Imports what is heavy at the top, for `export` imports it when it runs.
"""

from pathlib import Path

from ...exporters.contract import RULES
from ...exporters.plain import Plain
from ..core.model.layers import show_shape
from ..core.model.open import ModelFile, open_model
from ..core.model.sidecar import find_preprocessing, from_option
from ..errors import CannotAssessError, UsageError
from ..text import Fields, quoted


def stated_preprocessing(option: str) -> Fields:
    """Return the preprocessing of `--preprocess`, whatever the model's size. Raises as `find_preprocessing`."""
    preprocessing, *_ = from_option(option, None)
    return preprocessing.model_dump()


def option_name(option: str | None) -> str:
    """Return how a contract names `--preprocess` and its value."""
    return f"--preprocess {Path(option or '').name}"


def read_plain(path: Path, *, option: str | None, again: str) -> Plain:
    """Return what the contract of a file without one must hold.

    Args:
        path: the file. option: of `--preprocess`; None where a sidecar states the preprocessing.
        again: the other options of the call, for hints.

    Raises:
        UsageError, CannotAssessError: as `open_model` and `find_preprocessing`; no preprocessing is stated (exit 2);
            the file can't have a contract (exit 3).
    """
    model = open_model(path)
    refuse_unfit(model)
    facts = find_preprocessing(path, option, None, model.image_input.size)
    if facts.source == "assumed":
        raise UsageError(
            f"{path}: preprocessing is missing; the contract must state how photos become the input",
            f"robustcheck export onnx {quoted(path)} --preprocess clip {again}  # or imagenet, or a JSON file: what "
            "the model was trained with",
        )
    chosen = model.representation
    n_features = None
    if chosen.shape is not None:
        n_features = chosen.shape[chosen.feature_axis]
    stated_by = facts.fields[-1][2]
    if option is not None:
        stated_by = option_name(option)
    return Plain(
        preprocessing=facts.preprocessing.model_dump(),
        stated_by=stated_by,
        input_name=model.image_input.name,
        tensor=chosen.tensor,
        n_features=n_features,
        rule=chosen.rule,
        why=chosen.why,
        scores=_scores_of(model),
    )


def _scores_of(model: ModelFile) -> str:
    """Return the output of class scores (image, class); "" where there is none."""
    name = model.class_output
    for output in model.outputs:
        is_table = output.dtype == "float" and len(output.shape or ()) == 2
        if is_table and output.name == name and name != model.representation.tensor:
            return output.name
    return ""


def refuse_unfit(model: ModelFile) -> None:
    """Refuse a file that can't have a contract.

    Raises CannotAssessError: the representation is a guess, or must be pooled; the input is not what a contract is for.
    """
    chosen = model.representation
    image = model.image_input
    check = f"robustcheck {quoted(model.path)}"
    if chosen.assumed:
        raise CannotAssessError(
            f"{model.path}: the graph does not show whether {chosen.tensor} is the representation; a contract must "
            "name it for certain",
            f"{check} --tensor {quoted(chosen.tensor)}  # if that is what you deploy; it needs no contract",
        )
    is_flat = chosen.shape is None or len(chosen.shape) == 2
    if not is_flat or chosen.dequantize or chosen.rule not in RULES:
        raise CannotAssessError(
            f"{model.path}: representation {chosen.tensor} is {show_shape(chosen.shape)}, pooled by {chosen.pool}"
            f"{', quantised' if chosen.dequantize else ''}; a contract is for a float output (image, feature)",
            f"{check} --preprocess clip  # works without a contract; or export the model with that output",
        )
    if (image.dtype, image.layout, image.batch in (None, 1)) != ("float32", "NCHW", True):
        raise CannotAssessError(
            f"{model.path}: image input is {image.dtype} {image.layout}, batch {image.batch or 'dynamic'}; a contract "
            "is for float32 NCHW, with a batch that is dynamic or 1",
            f"{check} --preprocess clip  # works without a contract; or export the model with that input",
        )
    outputs = [output.name for output in model.outputs]
    if model.precision in ("fp16", "bf16") and chosen.tensor not in outputs:
        raise CannotAssessError(
            f"{model.path}: representation {chosen.tensor} is {model.precision} and not an output; a contract is for a "
            "float32 output",
            "start from the fp32 file, and add --precision fp16",
        )
