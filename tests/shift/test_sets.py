"""How many classes a model scores, asked of the model."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.shift.labels import Scores
from robustcheck_onnx.checker.shift.sets import class_scores


def runner(columns: int, head: int | None, names: tuple[str, ...] | None = None) -> Any:
    """A model of which only the width of its answer, its last layer and the names in its contract are asked."""

    def run(pixels: Any) -> Any:
        assert pixels.shape == (1, *CLIP.size, 3)
        assert not pixels.any()
        return SimpleNamespace(class_output=np.zeros((1, columns), np.float32))

    opened = SimpleNamespace(
        path="m.onnx",
        class_output="logits",
        head=None if head is None else SimpleNamespace(classes=head),
        contract=None if names is None else SimpleNamespace(zero_shot=SimpleNamespace(classes=names)),
    )
    return SimpleNamespace(model=opened, run=run)


def test_a_model_scores_each_of_two_classes_or_more() -> None:
    for columns, head, names in ((2, None, None), (2, 2, ("a", "b")), (1000, 1000, None)):
        assert class_scores(runner(columns, head, names), CLIP) == Scores(columns, names or ())
    for columns, head, said in (
        (1, None, "1 values per image; one score for each of at least two classes is needed"),
        (1, 1, "1 values per image, its last linear layer 1; one score"),
        (5, 1000, "5 values per image, its last linear layer 1000; one score"),  # TopK
    ):
        with pytest.raises(CannotAssessError, match=f"m.onnx: class output 'logits' has {said}"):
            class_scores(runner(columns, head), CLIP)


def test_class_names_of_another_number_are_refused() -> None:
    with pytest.raises(CannotAssessError, match="class names in the contract is 3; the model has 2 classes"):
        class_scores(runner(2, 2, ("a", "b", "c")), CLIP)
