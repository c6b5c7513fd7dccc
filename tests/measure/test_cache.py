"""The cache gives the same evidence or none: every change that could move a number makes it measure again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker import measure, pipeline
from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.checker.images.source import open_images
from robustcheck_onnx.checker.measure import cache
from robustcheck_onnx.checker.measure.job import Job
from robustcheck_onnx.checker.report.record import Report, to_json
from robustcheck_onnx.checker.storage import own_files
from robustcheck_onnx.checker.verdict import rule
from robustcheck_onnx.thresholds import profile

COMMAND = Path(sys.executable).parent / "robustcheck"


@pytest.fixture
def place(tmp_path: Path, lookup_pass: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the look-up model, its photos and an empty cache."""
    model, photos = lookup_pass
    shutil.copy(model, tmp_path / "model.onnx")
    shutil.copytree(photos, tmp_path / "photos")
    monkeypatch.setenv(own_files.FOLDER, str(tmp_path / "cache"))
    monkeypatch.delenv(own_files.OFF, raising=False)
    return tmp_path


def run(place: Path, **options: object) -> Report:
    return check(place / "model.onnx", images=place / "photos", cache=True, **options)  # type: ignore[arg-type]


def is_hit(report: Report) -> bool:
    assert report.time is not None
    return report.time.cached is not None


def without_time(report: Report) -> str:
    return to_json(report.model_copy(update={"time": None}))


def test_a_hit_is_the_identical_report_and_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(place)
    assert not is_hit(first)
    monkeypatch.setattr(measure, "read_inputs", lambda *_, **__: pytest.fail("a hit must not open the model"))
    second = run(place)
    assert is_hit(second)
    assert first.time is not None
    assert second.time is not None
    assert second.time.cached == first.time.started
    assert second.time.images_per_s is None
    assert without_time(second) == without_time(first)
    assert second.verdict.verdict == "PASS"


def test_it_is_off_unless_asked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place)
    assert not is_hit(check(place / "model.onnx", images=place / "photos"))
    monkeypatch.setenv(own_files.OFF, "1")
    assert not is_hit(run(place))


def _other_weights(place: Path) -> None:
    proto = onnx.load(place / "model.onnx")
    weight = next(w for w in proto.graph.initializer if w.name == "embeddings")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, "embeddings"))
    onnx.save(proto, place / "model.onnx")


def _one_byte_of_a_read_image(place: Path) -> None:
    source = open_images(place / "photos")
    path = Path(source.entries[3].origin)
    path.write_bytes(path.read_bytes() + b"\0")  # behind the image's end: the same pixels, another file


def _one_image_more(place: Path) -> None:
    shutil.copy(next((place / "photos").iterdir()), place / "photos" / "one_more.png")


def _one_image_less(place: Path) -> None:
    sorted((place / "photos").iterdir())[0].unlink()


def _a_sidecar(place: Path) -> None:
    (place / "model.robustcheck.json").write_text("{}", encoding="utf-8")


CHANGES: dict[str, Callable[[Path], None]] = {
    "weights": _other_weights,
    "an image": _one_byte_of_a_read_image,
    "one image more": _one_image_more,
    "one image less": _one_image_less,
    "a sidecar": _a_sidecar,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_input_is_measured_again(change: str, place: Path) -> None:
    run(place)
    CHANGES[change](place)
    again = run(place)
    assert not is_hit(again)
    assert is_hit(run(place))


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"max_images": 70},
        {"device": "cpu"},
        {"max_bad": 0.5},
        {"tensor": "representation"},
        {"preprocess": "clip"},
        {"batch_size": 7},
        {"thresholds": profile.seal(profile.load().model_copy(update={"id": "own", "min_images": 60}))},
    ],
    ids=lambda options: next(iter(options)),
)
def test_another_option_is_another_run(options: dict[str, object], place: Path) -> None:
    run(place)
    assert not is_hit(run(place, **options))
    assert is_hit(run(place))


def test_sidecars_and_models_above_a_hubs_folder_count(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    model, above = tmp_path / "onnx" / "model.onnx", tmp_path / "preprocessor_config.json"
    source = open_images(None, limit=1)
    keys = set()
    for path, content in ((model, b""), (above, b"{}"), (above, b"[]"), (tmp_path / "other.onnx", b"")):
        path.write_bytes(content)
        keys.add(cache.key_of(Job(model), "sha256:0", profile.load(), source))
    above.rename(model.with_name(above.name))  # the same file, nearer
    keys.add(cache.key_of(Job(model), "sha256:0", profile.load(), source))
    assert len(keys) == 5


def test_a_changed_byte_in_any_room_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules of one name in several rooms are told apart, too."""
    checker = tmp_path / "checker"
    shutil.copytree(Path(cache.__file__).parent.parent, checker, ignore=shutil.ignore_patterns("__pycache__", "photos"))
    monkeypatch.setattr(cache, "__file__", str(checker / "measure" / "cache.py"))
    code = cache._code.__wrapped__
    before = code()
    for name in ("statistics/state.py", "report/html/page.py", "verdict/rule.py"):
        module = checker / name
        text = module.read_text(encoding="utf-8")
        module.write_text(text.replace("e", "f", 1), encoding="utf-8")
        assert code() != before
        module.write_text(text, encoding="utf-8")
        assert code() == before
    (checker / "scan" / "run.py").rename(checker / "scan" / "kept.py")
    (checker / "measure" / "run.py").rename(checker / "scan" / "run.py")
    (checker / "scan" / "kept.py").rename(checker / "measure" / "run.py")
    assert code() != before


def test_other_code_or_another_runtime_is_another_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place)
    with monkeypatch.context() as changed:
        changed.setattr(cache, "_code", lambda: "other")
        assert not is_hit(run(place))
    with monkeypatch.context() as changed:
        changed.setattr(onnxruntime, "__version__", "0.0.1")
        assert not is_hit(run(place))
    with monkeypatch.context() as changed:
        changed.setenv("CUDA_VISIBLE_DEVICES", "7")
        assert not is_hit(run(place))
    assert is_hit(run(place))


def test_external_weights_belong_to_the_model(place: Path) -> None:
    proto, weights = onnx.load(place / "model.onnx"), place / "model.onnx.data"
    onnx.save(proto, place / "model.onnx", save_as_external_data=True, location=weights.name, size_threshold=1024)
    run(place)
    assert is_hit(run(place))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # the last byte of the last weight
    weights.write_bytes(bytes(content))
    assert not is_hit(run(place))
    weights.unlink()
    with pytest.raises(Exception, match=r"weights file model\.onnx\.data is missing"):
        run(place)


def test_a_run_during_which_a_sidecar_changed_is_not_kept(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = measure.read_inputs

    def read_inputs(*arguments: Any, **options: Any) -> measure.Inputs:
        inputs = real(*arguments, **options)
        _a_sidecar(place)
        return inputs

    with monkeypatch.context() as changed:
        changed.setattr(measure, "read_inputs", read_inputs)
        run(place)
    assert cache.size().records == 0
    assert not is_hit(run(place))


def test_a_model_that_changes_during_a_run_is_measured_as_it_was_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes are read once: those that were digested are those that ran, and what is kept is about them."""
    real, before = measure.read_inputs, run(place)
    cache.clear()

    def read_inputs(*arguments: Any, **options: Any) -> measure.Inputs:
        _other_weights(place)
        return real(*arguments, **options)

    with monkeypatch.context() as changed:
        changed.setattr(measure, "read_inputs", read_inputs)
        during = run(place)
    assert during.evidence == before.evidence
    after = run(place)
    assert not is_hit(after)
    assert after.evidence.model.digest != before.evidence.model.digest


@pytest.mark.parametrize("damage", ["cut", "forged", "empty", "of another format"])
def test_a_damaged_record_is_none(damage: str, place: Path) -> None:
    """Forged: evidence that was changed by somebody without the key."""
    first = run(place)
    (record,) = (place / "cache").glob("*.json")
    text = record.read_text(encoding="utf-8")
    changed = {
        "cut": text[: len(text) // 2],
        "forged": text.replace('"n_images":50', '"n_images":51'),
        "empty": "",
        "of another format": text.replace('"format":2', '"format":1', 1),
    }[damage]
    assert changed != text
    record.write_text(changed, encoding="utf-8")
    again = run(place)
    assert not is_hit(again)
    assert without_time(again) == without_time(first)
    assert is_hit(run(place))


def test_the_verdict_is_judged_anew(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(place)
    seen = []
    real = rule.judge

    def judge(evidence: Evidence, profile_: profile.Profile) -> rule.Verdict:
        seen.append(evidence)
        return real(evidence, profile_)

    monkeypatch.setattr(pipeline, "judge", judge)
    assert is_hit(run(place))
    assert len(seen) == 1


def test_a_run_with_skipped_images_is_not_kept(place: Path) -> None:
    (place / "photos" / "broken.png").write_bytes(b"\x89PNG")
    run(place, max_bad=0.5, thresholds=profile.seal(profile.load().model_copy(update={"id": "all", "min_images": 999})))
    assert cache.size().records == 0


def test_a_folder_that_cannot_be_written_harms_no_check(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv(own_files.FOLDER, str(place / "file" / "below"))
    assert run(place).verdict.verdict == "PASS"
    assert cache.size().records == 0


def test_it_is_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        run(place, seed=seed)
    records = sorted((place / "cache").glob("*.json"), key=lambda path: path.stat().st_mtime)
    for age, path in enumerate(records):
        os.utime(path, (1000 + age, 1000 + age))
    assert is_hit(run(place, seed=0))  # used last, though kept first
    monkeypatch.setattr(cache, "LIMIT_BYTES", 5 * records[0].stat().st_size // 2)
    run(place, seed=3)
    assert cache.size().records == 2
    assert is_hit(run(place, seed=3))
    assert is_hit(run(place, seed=0))
    assert not is_hit(run(place, seed=1))


def test_two_processes_at_once(place: Path) -> None:
    command = [str(part) for part in (COMMAND, place / "model.onnx", "--images", place / "photos", "-o", "json")]
    command.append("--no-time")
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run(command, capture_output=True, check=False), range(3)))
    assert {d.returncode for d in done} == {0}
    assert len({d.stdout for d in done}) == 1
    assert sorted(path.suffix for path in (place / "cache").iterdir()) == [".json", ".key"]


def test_the_verbs(place: Path) -> None:
    def command(*arguments: str) -> str:
        done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, cwd=place)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for options in ((), ("--no-cache",), ()):
        command("model.onnx", "--images", "photos", "-qq", *options)
    report = json.loads(command("model.onnx", "--images", "photos", "-o", "json"))
    assert report["time"]["cached"] is not None
    assert "· from the cache\n" in command("model.onnx", "--images", "photos")
    assert "from the cache: measured" in command("model.onnx", "--images", "photos", "-v")
    assert json.loads(command("model.onnx", "--images", "photos", "-o", "json", "--no-cache"))["time"]["cached"] is None
    assert "\n1 records, " in command("cache", "info")
    size = json.loads(command("cache", "info", "-o", "json"))
    assert size["records"] == 1
    assert size["size_bytes"] == sum(path.stat().st_size for path in (place / "cache").glob("*.json"))
    (place / "cache" / "other.json").write_text("{}", encoding="utf-8")
    assert command("cache", "clear").startswith("removed 1 records from ")
    assert [path.name for path in (place / "cache").iterdir()] == ["other.json"]


def test_the_digest_is_that_of_a_measured_image(place: Path, tmp_path: Path) -> None:
    source = open_images(place / "photos")
    item = source.load(0)
    assert source.digest(0) == item.digest  # type: ignore[union-attr]
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 8, 8), np.float32))
    tensors = open_images(tmp_path / "x.npy")
    assert tensors.digest(1) == tensors.load(1).digest  # type: ignore[union-attr]
