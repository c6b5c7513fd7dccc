"""The notes of a `shift` report: what a reader must know beside its numbers; pure."""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck_onnx.checker.evidence import Execution
from robustcheck_onnx.checker.model import ModelFile
from robustcheck_onnx.checker.verdict import execution_notes, model_notes, skipped_note

from .predicted import ClassShift
from .predictions import Predicted
from .records import SetResult, Shifted
from .robustness import IMAGES, LABEL_SET, WORDS
from .scores import COSINES


def notes_of(
    inner: SetResult,
    beside: Sequence[Shifted],
    predicted: Predicted | None,
    preprocessing: str,
    opened: ModelFile,
    execution: Execution,
) -> tuple[str, ...]:
    """Write what a reader must know beside the accuracies."""
    source = opened.contract.source if opened.contract else None
    notes = model_notes(
        source.synthetic if source else "",
        random_weights=bool(source and source.random_weights),
        preprocessing=preprocessing,
        left_out=opened.left_out,
    )
    notes += execution_notes(execution)
    results = (inner, *(each.result for each in beside))
    if any(result.label_set in LABEL_SET.values() and result.label_set != "file" for result in results):
        notes.append("The model's 1000 classes are taken to be in ImageNet-1k's order.")
    if len({result.n_compete for result in results}) > 1:
        notes.append(
            "The sets are measured with different numbers of classes; part of their difference comes from that."
        )
    for each in beside:
        if each.in_both:
            notes.append(f"{each.in_both} images are in both {inner.name} and {each.result.name}.")
    for result in results:
        whole = IMAGES.get(result.shift or "", result.n_available)
        if result.n_available != whole:
            notes.append(
                f"{result.name} has {result.n_available} images; {WORDS[result.shift or '']} as published has {whole}."
            )
        notes += skipped_note(result.n_skipped, result.n_read, result.skipped, result.name)
        if result.n_read < result.n_available:
            notes.append(f"{result.name}: {result.n_read} of {result.n_available} images, drawn by seed.")
    if predicted is not None:
        notes += predicted_notes(inner, predicted)
    return tuple(notes)


def predicted_notes(inner: SetResult, predicted: Predicted) -> list[str]:
    """Write what a reader must know beside the predicted accuracies."""
    notes = []
    if predicted.scores != "logits":
        notes.append(
            f"The class output holds {predicted.scores} ({predicted.scores_why}); confidences are taken as they are."
        )
    if predicted.scores_why == COSINES:
        notes.append(
            "The scores are cosines without a factor: their softmax is nearly flat, and DoC predicts hardly any change."
        )
    if inner.n_labels < inner.n_compete:
        notes.append(
            f"The labelled images of {inner.name} are of {inner.n_labels} of {inner.n_compete} classes; what is "
            "predicted holds for images of these classes only."
        )
    for each in predicted.targets:
        classes = each.classes
        shares = ClassShift(classes.distance, classes.expected_distance, classes.p_value)
        if each.in_both:
            notes.append(f"{each.in_both} images are in both {inner.name} and {each.name}.")
        if classes.n_classes == 1:
            notes.append(f"All images of {each.name} are predicted to be of one class.")
        elif shares.is_told:
            notes.append(
                f"Other classes are predicted on {each.name} than on {inner.name} (total variation distance "
                f"{classes.distance:.2f}; {classes.expected_distance:.2f} by chance). Its classes may have other "
                "frequencies (label shift), which ATC and DoC take to be the same."
            )
        notes += skipped_note(each.n_skipped, each.n_read, each.skipped, each.name)
        if each.n_read < each.n_available:
            notes.append(f"{each.name}: {each.n_read} of {each.n_available} images, drawn by seed.")
    return notes
