"""What a call of `robustcheck shift` names."""

from pathlib import Path

from robustcheck_onnx.checker.shift.sets import Spec, parse_call, parse_spec
from robustcheck_onnx.thresholds.published import IMAGENET
from support import refused


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
