"""How many classes a model scores, asked of the model."""

from typing import Any
from unittest.mock import Mock

import numpy as np

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.shift.labels import Scores
from robustcheck_onnx.checker.shift.sets import class_scores
from support import raised


def runner(columns: int, head: int | None, names: tuple[str, ...] = ()) -> Any:
    """A model of which only the width of its answer, its last layer and the names in its contract are asked."""

    def run(pixels: Any) -> Mock:
        assert (pixels.shape, pixels.any()) == ((1, *CLIP.size, 3), False)
        return Mock(class_output=np.zeros((1, columns), np.float32))

    model = Mock(path="m.onnx", class_output="logits", head=None if head is None else Mock(classes=head))
    model.contract.zero_shot.classes = names
    return Mock(model=model, run=run)


def test_a_model_scores_each_of_two_classes_or_more() -> None:
    for columns, head, names in ((2, None, ()), (2, 2, ("a", "b")), (1000, 1000, ())):
        assert class_scores(runner(columns, head, names), CLIP) == Scores(columns, names)
    for columns, head, wrong, said in (
        (1, None, (), "output 'logits' has 1 values per image; one score for each of at least two classes is needed"),
        (1, 1, (), "output 'logits' has 1 values per image, its last linear layer 1; one score"),
        (5, 1000, (), "output 'logits' has 5 values per image, its last linear layer 1000; one score"),  # TopK
        (2, 2, ("a", "b", "c"), "names in the contract is 3; the model has 2 classes"),
    ):
        raised(CannotAssessError, f"m.onnx: .*class {said}", class_scores, runner(columns, head, wrong), CLIP)
