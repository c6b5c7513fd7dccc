"""One record says what moves a number; what the callers write is compared with it field by field."""

import inspect
from pathlib import Path
from typing import get_type_hints

from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx.checker.cli.options import ROWS, Settings
from robustcheck_onnx.checker.cli.verbs import calibrate, questions
from robustcheck_onnx.checker.evidence import Options, RunOptions
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.measure.run import settle
from support import Fields, Patch, raised


def test_the_keywords_are_the_record() -> None:
    given, fields = get_type_hints(RunOptions), get_type_hints(Options)
    assert given.keys() | {"images"} == Options.model_fields.keys()
    for name, type_ in given.items():
        assert type_ == (str | Path | None if name == "preprocess" else fields[name]), name


def test_keywords_become_the_record() -> None:
    options = Options.of({"images": Path("photos"), "seed": 3}, max_images=64)
    assert options == Options(images="photos", seed=3, max_images=64) == Options.of(options.given)
    assert Options.of({"max_images": None}, max_images=64).max_images is None
    raised(
        TypeError,
        "unexpected keyword argument 'imagess'; options are images, tensor, pool",
        Options.of,
        {"imagess": "photos"},
    )


def test_the_word_for_the_bundled_photos_is_no_folder(tmp_path: Path, monkeypatch: Patch) -> None:
    """Not even where a folder has that name; a Path is always a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "bundled" / "own.png")
    stock = open_images(None)
    for named in ("bundled", settle("bundled", {})[0].images):
        source = open_images(named)
        assert (source.kind, source.spec, source.names_digest) == ("bundled", "", stock.names_digest)
    for named in ("./bundled", settle(Path("bundled"), {})[0].images):
        own = open_images(named)
        assert (own.kind, len(own)) == ("folder", 1)
    assert Options(images="bundled") == Options()


def test_mistyped_keywords_are_refused_before_anything_is_opened() -> None:
    for function in (rc.check, rc.scan):
        raised(TypeError, "'sead'", function, "none.onnx", sead=1)
    raised(TypeError, "images", rc.measure_shift, "none.onnx", "photos", ["sketches"], images="other")


def test_settings_and_verbs_have_the_records_defaults() -> None:
    assert Settings().options == Options()
    assert set(Options.model_fields) < set(ROWS)
    others: tuple[Fields, ...] = (
        {}, {"max_images": 1000}, {"max_images": 64}, {"max_images": 300}, {}, {},
        {"tensor": "auto"},  # which tensor to fit, not which to measure
    )  # fmt: skip
    verbs = (
        questions.check,
        questions.compare,
        questions.scan,
        questions.directions,
        questions.shift,
        questions.concepts,
    )
    for other, verb in zip(others, (*verbs, calibrate.calibrate), strict=True):
        parameters = inspect.signature(verb).parameters
        shared = {name: parameters[name].default for name in Options.model_fields if name in parameters}
        assert {"device", "seed", "max_images", "max_bad", "batch_size"} <= shared.keys()
        assert shared.items() <= (dict(Options()) | other).items(), verb
