"""What a call of `robustcheck shift` names, labels and class maps against timm's tables, and what is refused."""

import importlib.util
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.checker.questions.shift.classes import Scores, class_map, is_correct, synset_index
from robustcheck_onnx.checker.questions.shift.sets import class_scores, parse_call, parse_spec
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
    named = parse_call("imagenet=val", ["ImageNet-V2=v2", "r=art", "a/blur"], ["r=map.json", "imagenet"])
    assert named == (
        ("imagenet", Path("val"), IMAGENET),
        [
            ("ImageNet-V2", Path("v2"), "imagenetv2"),
            ("r", Path("art"), "imagenet_r"),
            ("blur", Path("a/blur"), None),
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


IN1K = Scores(1000)


@pytest.mark.long
def test_the_class_table_is_timms() -> None:
    found = importlib.util.find_spec("timm")  # not imported: it takes torch along
    if found is None or found.origin is None:
        pytest.skip("extra `export` is not installed")
    folder = Path(found.origin).parent / "data" / "_info"
    synsets = (folder / "imagenet_synsets.txt").read_text().split()
    assert synset_index() == {synset: index for index, synset in enumerate(synsets)}
    for word, letter in (("imagenet-r", "r"), ("imagenet-a", "a")):
        truth = [int(index) for index in (folder / f"imagenet_{letter}_indices.txt").read_text().split()]
        subset = class_map(word, [synsets[truth[0]]], IN1K, where="here")
        assert list(subset.compete) == sorted(truth)
        assert len(set(subset.indices.values())) == 200
        names = (folder / f"imagenet_{letter}_synsets.txt").read_text().split()
        assert {name for name in subset.indices if name.startswith("n")} == set(names)


def test_known_classes() -> None:
    """ImageNet-1k starts with the tench and ends with toilet tissue; the tabby is class 281."""
    found = class_map(None, ["n01440764", "n15075141", "n02123045"], IN1K, where="here")
    classes = {"n01440764": (0,), "n15075141": (999,), "n02123045": (281,), "281": (281,), "007": (7,)}
    assert classes.items() <= found.indices.items()
    assert (found.compete, found.label_set) == (tuple(range(1000)), IMAGENET)


def test_labels_that_speak_for_themselves() -> None:
    for spec, known, scores, classes in (
        (None, ["0", "3"], Scores(4), {"0": (0,), "3": (3,)}),
        (None, ["dog"], Scores(3, ("cat", "dog", "crane")), {"cat": (0,), "dog": (1,), "crane": (2,)}),
        ("sorted", ["b"], Scores(2), {"a": (0,), "b": (1,)}),
        ("names", ["cat"], Scores(3, ("crane", "cat", "crane")), {"cat": (1,)}),  # a name of two classes says nothing
    ):
        assert class_map(spec, known, scores, where="here", sorted_names=["b", "a"]).indices == classes


def test_imagenet_r_is_predicted_among_its_own_classes() -> None:
    found = class_map(None, ["n01443537"], IN1K, where="here", shift="imagenet_r")
    assert (found.label_set, len(found.compete)) == ("imagenet_r", 200)
    scores = 2.0 * np.eye(1, 1000) + np.eye(1, 1000, 1)  # first the tench, which ImageNet-R lacks; then the goldfish
    assert is_correct(scores, [found.indices["n01443537"]], found.compete).tolist() == [True]
    assert is_correct(scores, [(1,)], range(1000)).tolist() == [False]


def test_a_map_of_several_classes_a_label(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"cat": ["n02123045", 282, 285], "cup": 968}))
    found = class_map(str(path), ["cat", "cup"], IN1K, where="here", shift="objectnet")
    assert (found.indices, found.compete) == ({"cat": (281, 282, 285), "cup": (968,)}, (281, 282, 285, 968))
    path.write_text(json.dumps({"labels": {"cat": [281, 282, 285], "cup": 968}, "compete": "all"}))
    everything = class_map(str(path), ["cat"], IN1K, where="here")
    assert everything.compete == tuple(range(1000))
    assert (found.label_set, everything.label_set) == ("file", "")  # only the first is as published results are


def test_bad_maps_and_labels(tmp_path: Path) -> None:
    ten = Scores(10)
    for text, said in {
        "[1, 2]": "class map is a JSON list", "{}": "class map is empty", "{": "class map is not readable JSON",
        '{"cat": 0, "cat": 1}': "key 'cat' occurs 2 times",
        '{"cat": 10}': "class of 'cat' is 10; the model has 10 classes, 0 to 9", '{"cat": -1}': "class of 'cat' is -1",
        '{"cat": true, "dog": 1}': "class of 'cat' is True", '{"cat": []}': "class of 'cat' is []",
        '{"cat": "n02123045"}': "class of 'cat' is 'n02123045'",
        '{"cat": [0, 1]}': "classes of 'cat' are all that compete",
        '{"labels": {"cat": 0}, "compete": "none"}': "compete is 'none'",
        '{"labels": {"cat": 0}, "competes": "all"}': "key 'competes' is unknown",
        '{"dog": 0, "bird": 1}': "label is 'cat' (1 images; 1 such labels)",
    }.items():  # fmt: skip
        (tmp_path / "map.json").write_text(text)
        refused(said, class_map, str(tmp_path / "map.json"), ["cat"], ten, where="here")
    for spec, known, scores, shift, said in [
        (None, ["n01440764"], ten, None, "number of classes is 10; ImageNet's synset ids and indices are for 1000"),
        (None, ["0", "10"], ten, None, "label is '10'; the model has 10 classes, 0 to 9"),
        (None, ["1000"], IN1K, None, "label is '1000'"),
        (None, ["n01440764", "tench"], IN1K, None, "label is 'tench'"),
        (None, ["n01440764", "0"], IN1K, None, "label is '0'; without a class map"),
        (None, ["dgo"], Scores(2, ("cat", "dog")), None, "the closest of the file's class names is 'dog'"),
        (None, ["n01440764"], IN1K, "imagenet_r", "label is 'n01440764'"),
        (None, ["chair"], IN1K, "objectnet", "class map is missing"),
        ("sorted", ["a"], Scores(3), None, "number of classes is 3; --classes sorted needs as many class folders"),
        ("names", ["a"], Scores(3), None, "class names are not in the file's contract"),
        ("imgenet", ["a"], IN1K, None, "--classes is 'imgenet'; it must be one of"),
    ]:
        refused(said, class_map, spec, known, scores, where="here", shift=shift, sorted_names=["a", "b"])
