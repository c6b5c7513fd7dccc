"""What ended, blocked or filled the process that reads it is refused where it is read, without the wall."""

import os
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import helper

import robustcheck_onnx as rc
from robustcheck_onnx.checker.errors import CannotAssessError, RobustcheckError, UsageError
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.model.open import open_model
from robustcheck_onnx.checker.runtime import session
from robustcheck_onnx.checker.storage.places import redact_text
from support import PHOTOS, Capture, hostile, robustcheck
from support.onnx_models import classifier, save

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


MODELS: list[tuple[Callable[[], onnx.ModelProto], str]] = [
    (hostile.doubling_functions, "functions expand to more than 100,000 nodes"),
    *(
        (make, f"constants that the graph computes hold {values:,} values, the file ")
        for make, values in (
            (hostile.constant_of_shape, 2**40 + 2),  # the mean of it is computed, too, and cast
            (partial(hostile.repeated, "Expand"), 2**40 + 2),
            (partial(hostile.repeated, "Tile"), 2**40 + 2),
            (hostile.counted, 2**40 + 2),
            (hostile.many_large, 7 * 2**28 + 2),
            (hostile.joined, 2**31 - 2 + 2**30 + 2),
            (hostile.outer_product, 2**34 + 2),
        )
    ),
    (hostile.one_name_twice, "tensor 'relu' is written twice, by two nodes"),
    (
        hostile.name_of_source_files,
        "refuses the model: Non-zero status code returned while running Gemm node. Name:'a.ha.ha.h",
    ),
    (hostile.many_dimensions, "weight 'wide' has 16,000 dimensions; at most 32 are possible"),
    (hostile.many_dimensions_inside, "'scores' has 16,000 dimensions; at most 32 are possible"),
]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in PHOTOS[:4]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


def test_a_model_is_refused(tmp_path: Path, photos: Path) -> None:
    for make, said in MODELS:
        path = save(make(), tmp_path / "m.onnx")
        with pytest.raises(CannotAssessError) as caught:
            rc.check(path, images=photos, isolate=False, preprocess="imagenet", device="cpu")
        assert said in caught.value.message, make


def test_what_a_file_says_of_its_constants_is_not_believed(tmp_path: Path) -> None:
    for lie in ((1,), (1, 2, 3)):
        model = hostile.constant_of_shape()
        say = helper.make_tensor_value_info
        model.graph.value_info.extend([say("giant", hostile.FLOAT, lie), say("conv", hostile.FLOAT, lie)])
        with pytest.raises(CannotAssessError, match="constants that the graph computes hold"):
            open_model(save(model, tmp_path / "m.onnx"))


def test_a_model_is_opened(tmp_path: Path) -> None:
    fits = partial(hostile.constant_of_shape, 1 << 20)
    for make in (hostile.negative_sizes, hostile.nested_gates, fits):
        assert open_model(save(make(), tmp_path / "m.onnx")).image_input.name == "image"


PIPE = "file is a device, pipe or folder; a regular file is needed"
LONG = "row 1 is longer than 1,048,576 letters"
IMAGES: list[tuple[Callable[[Path], Path], type[RobustcheckError], str]] = [
    (hostile.negative_member, CannotAssessError, "tar file is damaged"),
    (hostile.pipe_in_folder, CannotAssessError, "number of unusable images is 1 of 9 (a.jpg: not a regular file)"),
    (hostile.pipe_in_late_row, UsageError, "row 10002: path is pipe.jpg; there is no such file"),
    (
        hostile.device_in_table,
        CannotAssessError,
        "no usable images among 2 (images.parquet#00000000: not a regular",
    ),
    *((hostile.pipe_as(suffix), UsageError, PIPE) for suffix in (".tar", ".parquet", ".arrow")),
    *((hostile.one_line(suffix), UsageError, LONG) for suffix in (".txt", ".csv", ".jsonl")),
    (hostile.row_of_many_lines, UsageError, "row 209716 is longer than 1,048,576 letters"),
]


def test_an_image_set_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = save(classifier(), tmp_path / "m.onnx")
    for number, (make, error, said) in enumerate(IMAGES):
        (tmp_path / str(number)).mkdir()
        images = make(tmp_path / str(number))
        with pytest.raises(error) as caught:
            rc.check(path, images=images, isolate=False, preprocess="imagenet", device="cpu", max_images=20_000)
        assert said in caught.value.message, number


def test_a_negative_member_on_any_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newer Pythons refuse it themselves; here they count blocks as the older ones."""
    monkeypatch.setattr(tarfile.TarInfo, "_block", lambda self, count: -(-count // 512) * 512)
    with pytest.raises(CannotAssessError, match=r"size of member 'b\.jpg' is -512"):
        open_images(hostile.negative_member(tmp_path))


def test_pipes_beside_a_model_are_no_sidecars(tmp_path: Path, photos: Path) -> None:
    path = save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "preprocessor_config.json").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "m.robustcheck.json")
    assert rc.check(path, images=photos, isolate=False, device="cpu").evidence.preprocessing.source == "assumed"


@pytest.mark.process
@pytest.mark.usefixtures("wall")
def test_an_arrow_file_with_changed_bytes_is_refused_and_ends_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = save(classifier(), tmp_path / "m.onnx")
    with pytest.raises(CannotAssessError, match=r"images\.arrow: Arrow file is damaged .*[Oo]ffset"):
        rc.check(path, images=hostile.wrong_offsets(tmp_path), preprocess="imagenet", device="cpu")


@pytest.mark.process
@pytest.mark.usefixtures("wall")
def test_a_loop_without_end_ends_at_the_limit(tmp_path: Path, photos: Path, capfd: Capture) -> None:
    path = save(hostile.endless_loop(), tmp_path / "m.onnx")
    started_s = time.monotonic()
    code = robustcheck(path, "--images", photos, "--timeout", "3", "--preprocess", "imagenet", "-q")
    assert code == 3
    assert time.monotonic() - started_s >= 3
    assert "reading and measuring it took longer than 3 s, its limit of time (--timeout)" in capfd.readouterr().err


def test_long_texts_are_redacted_and_read(tmp_path: Path) -> None:
    for text in ("a" * 1_000_000, "a.-" * 300_000, "s3://a/" + "?" * 1_000_000, "ab:/" * 200_000):
        assert redact_text(text) == text
    # of a part of a name the first question counts
    assert redact_text("at s3://b/a?b/c?d?key=1/e") == "at s3://b/a?b/c?***"
    model = open_model(save(classifier(), tmp_path / "m.onnx"))
    for place in ("a.h", "a.h ", "a.hx ", "a.h ::", "a.h ::(", "a.h ::()[with ", "a.h A", "a.h was ", "::"):
        error = session.translate(RuntimeError(place * 200_000 + "failed to"), model)
        assert isinstance(error, CannotAssessError)
        assert len(error.message) < 600 + len(str(model.path))
