"""What a call of `robustcheck shift` names, and how many classes a model scores, asked of the model."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np

from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.evidence import CLIP
from robustcheck_onnx.checker.shift.sets import Scores, Spec, class_scores, parse_call, parse_spec
from robustcheck_onnx.thresholds.published import IMAGENET
from support import raised, refused


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


def test_the_names_of_a_call(tmp_path: Path) -> None:
    named = parse_call("imagenet=val", ["ImageNet-V2=v2", "r=art", "some/blur"], ["r=map.json", "imagenet"])
    assert named == (
        Spec("imagenet", Path("val"), IMAGENET),
        [
            Spec("ImageNet-V2", Path("v2"), "imagenetv2"),
            Spec("r", Path("art"), "imagenet_r"),
            Spec("blur", Path("some/blur"), None),
        ],
        {"r": "map.json", "": "imagenet"},
        [],
    )
    (tmp_path / "v2=x").mkdir()  # a path may have an equals sign
    assert parse_spec(str(tmp_path / "v2=x"), "--in").shift is None


def test_no_key_of_a_url_is_shown() -> None:
    spec = parse_spec("https://u:hunter2@host/val.csv?sig=hunter2", "--in")
    assert (spec.name, str(spec.place)) == ("val", "https://***@host/val.csv?***")


def test_bad_calls() -> None:
    for inside, others, classes, said in (
        ("a", ["x=./a"], [], "image set is given twice"),
        ("a/x", ["b/x"], [], "name of 2 image sets is 'x'"),
        ("a", ["v2=b", "imagenet-v2=c"], [], "set of 2 image sets is 'imagenetv2'"),
        ("a", ["b"], ["c=map.json"], "c is not an image set of this call"),
        ("a", ["b"], ["x.json", "y.json"], "names a map for all sets twice"),
        ("a", [" "], [], "must be a labelled image set"),
        ("a", [], [], "--shifted is missing"),
    ):
        refused(said, parse_call, inside, others, classes)
