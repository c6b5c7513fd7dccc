"""Labels and class maps: ImageNet's classes against timm's tables, and what is refused."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from robustcheck_onnx.checker.shift import sets
from robustcheck_onnx.checker.shift.sets import Scores, class_map, is_correct
from robustcheck_onnx.thresholds.published import IMAGENET
from support import refused

IN1K = Scores(1000)


@pytest.mark.long
def test_the_class_table_is_timms() -> None:
    found = importlib.util.find_spec("timm")  # not imported: it takes torch along
    if found is None or found.origin is None:
        pytest.skip("extra `export` is not installed")
    folder = Path(found.origin).parent / "data" / "_info"
    synsets = (folder / "imagenet_synsets.txt").read_text().split()
    assert sets.synset_index() == {synset: index for index, synset in enumerate(synsets)}
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
    assert found.indices == {"cat": (281, 282, 285), "cup": (968,)}
    assert found.compete == (281, 282, 285, 968)
    path.write_text(json.dumps({"labels": {"cat": [281, 282, 285], "cup": 968}, "compete": "all"}))
    everything = class_map(str(path), ["cat"], IN1K, where="here")
    assert everything.compete == tuple(range(1000))
    assert (found.label_set, everything.label_set) == ("file", "")  # only the first is as published results are


def test_bad_maps_and_labels(tmp_path: Path) -> None:
    for text, said in {
        "[1, 2]": "class map is a JSON list",
        "{}": "class map is empty",
        "{": "class map is not readable JSON",
        '{"cat": 0, "cat": 1}': "key 'cat' occurs 2 times",
        '{"cat": 10}': "class of 'cat' is 10; the model has 10 classes, 0 to 9",
        '{"cat": -1}': "class of 'cat' is -1",
        '{"cat": true, "dog": 1}': "class of 'cat' is True",
        '{"cat": []}': "class of 'cat' is []",
        '{"cat": "n02123045"}': "class of 'cat' is 'n02123045'",
        '{"cat": [0, 1]}': "classes of 'cat' are all that compete",
        '{"labels": {"cat": 0}, "compete": "none"}': "compete is 'none'",
        '{"labels": {"cat": 0}, "competes": "all"}': "key 'competes' is unknown",
        '{"dog": 0, "bird": 1}': "label is 'cat' (1 images; 1 such labels)",
    }.items():
        (tmp_path / "map.json").write_text(text)
        refused(said, class_map, str(tmp_path / "map.json"), ["cat"], Scores(10), where="here")
    for spec, known, scores, shift, said in [
        (
            None,
            ["n01440764"],
            Scores(10),
            None,
            "number of classes is 10; ImageNet's synset ids and indices are for 1000",
        ),
        (None, ["0", "10"], Scores(10), None, "label is '10'; the model has 10 classes, 0 to 9"),
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
