"""Weights that change while a model runs: nobody knows which ones were measured, so there is no verdict."""

import ctypes
import hashlib
import json
import mmap
import os
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from robustcheck_onnx import Progress, check
from robustcheck_onnx.checker.core.measure.opening import OpenedJob, open_sessions
from robustcheck_onnx.checker.core.model import file as files
from robustcheck_onnx.checker.core.model import watched, weights
from robustcheck_onnx.checker.core.model.open import open_model
from robustcheck_onnx.checker.core.runtime.runner import Runner
from robustcheck_onnx.checker.errors import CannotAssessError
from robustcheck_onnx.exporters.contract import embed
from support import Patch, Place, lookup, normal, raised

BESIDE = ("weights.bin", "passing.bin")
MAPPED = ("inline.onnx", "passing.onnx")
MODEL = Path("model.onnx")
NEW_MOUNTS, PRIVATE = 0x20000, 0x44000  # CLONE_NEWNS; MS_REC | MS_PRIVATE
Change = Callable[[Path, Path], None]
Folders = tuple[Path, Path]


@pytest.fixture(autouse=True)
def _files(lookup_pass: Place, monkeypatch: Patch) -> None:
    """Models that give a WARN, and weights as large that would give a PASS.

    model.onnx with weights.bin, passing.bin; inline.onnx, which is mapped, passing.onnx.
    """
    monkeypatch.setattr(weights, "LARGE_BYTES", 1000)
    monkeypatch.setattr(files, "MAPPED_BYTES", 10_000)
    lookup.write_lookup_model("inline.onnx", normal(80, 512, seed=3))
    shutil.copy(lookup_pass[0], "passing.onnx")
    for source, beside in zip(MAPPED[::-1], BESIDE[::-1], strict=True):
        proto = onnx.load(source)
        embed(proto, json.loads(proto.metadata_props[0].value), Path())
        onnx.save(proto, source)
        del proto.metadata_props[1:]
        proto.metadata_props[0].value = json.dumps(lookup.lookup_contract())
        onnx.save(proto, "model.onnx", save_as_external_data=True, location=beside, size_threshold=1024)
        for name in (source, beside):
            os.utime(name, (1e9, 1e9))  # some clocks of file systems tick every 4 ms only
    point(location="weights.bin")
    Path("photos").symlink_to(lookup_pass[1])


def point(**values: str) -> None:
    """Change where a model says that its weights are."""
    proto = onnx.load("model.onnx", load_external_data=False)
    for entry in (entry for tensor in proto.graph.initializer for entry in tensor.external_data):
        entry.value = values.get(entry.key, entry.value)
    MODEL.write_bytes(proto.SerializeToString())


def verdict(model: Path = MODEL) -> str:
    return check(model, images="photos").verdict.verdict


def replace(file: Path, other: Path) -> None:
    other.replace(file)


def write(file: Path, other: Path) -> None:
    """And set the time back."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.write(other.read_bytes())
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def exchange(file: Path, other: Path) -> None:
    file.rename(file.with_name("kept"))
    other.rename(file)
    file.with_name("kept").rename(other)


def exchange_and_put_back(file: Path, other: Path) -> None:
    """The file itself, for a moment."""
    exchange(file, other)
    exchange(file, other)


def refused(model: Path, file: Path, stage: str, change: Callable[[], object]) -> None:
    """Check a model that changes at a stage, "" for the first batch, and get no verdict."""
    changed: list[int] = []

    def when(now: Progress) -> None:
        if not changed and now.stage == stage:
            change()
            changed.append(1)

    what = "model file" if file == model else f"weights file {file.relative_to(model.parent)}"
    caught = raised(CannotAssessError, "", check, model, images="photos", batch_size=8, progress=when)
    assert caught.message == f"{model}: {what} changed during the run; it must not change after it was digested"
    assert caught.hint == "run again when nothing writes to it any more"


@pytest.mark.parametrize(("change", "stage"), [
    (lambda file, other: file.unlink(), ""),
    *product((replace, write, exchange_and_put_back), ("loading the model", "")),
])  # fmt: skip
@pytest.mark.parametrize("names", [BESIDE, MAPPED], ids=["beside", "mapped"])
def test_weights_that_change_during_the_run_give_no_verdict(change: Change, stage: str, names: tuple[str, str]) -> None:
    file, other = map(Path, names)
    if names == MAPPED and not watched.stamps_writes(Path().stat()):
        pytest.skip("the temporary folder is on no file system whose stamps can be trusted: nothing is mapped there")
    refused(MODEL if names == BESIDE else file, file, stage, lambda: change(file, other))


def test_weights_that_stay_are_measured() -> None:
    for names, model in ((BESIDE, MODEL), (MAPPED, Path("inline.onnx"))):
        assert verdict(model) == "WARN"
        replace(*map(Path, names))
        assert verdict(model) == "PASS"


def test_a_write_through_a_map_that_was_written_through_before_is_seen() -> None:
    """Linux stamps the first such write alone; another model's rows are there for the session, the first ones again."""
    path = Path("inline.onnx")
    content = Path("passing.onnx").read_bytes()[1000:2000]
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as theirs:
        theirs[0] = theirs[0]  # from here on writes leave no stamp
        refused(path, path, "loading the model", lambda: theirs.__setitem__(slice(1000, 2000), content))


def test_a_file_that_changes_while_it_is_opened_is_refused(monkeypatch: Patch) -> None:
    """Without a run, too: what `inspect` says is of the bytes that were digested."""

    real = files.digests_of

    def digest_and_touch(*of: bytes) -> tuple[str, str]:
        os.utime("inline.onnx", (1e8, 1e8))
        return real(*of)

    monkeypatch.setattr(files, "digests_of", digest_and_touch)
    raised(CannotAssessError, "model file changed during the run", open_model, "inline.onnx")


# -------------------------------------------------------------------------------------- the folder is exchanged


def around_sessions(monkeypatch: Patch, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
    """Do something before ONNX Runtime reads the weights, and after."""
    real = open_sessions

    def opened(*arguments: Any, **options: Any) -> OpenedJob:
        before()
        try:
            return real(*arguments, **options)
        finally:
            after()

    for user in ("core.measure.opening", "questions.check"):
        monkeypatch.setattr(f"robustcheck_onnx.checker.{user}.open_sessions", opened)


@pytest.fixture
def folders() -> Folders:
    """release/ with model.onnx and weights that give a WARN; other/ with the same model and weights that would pass."""
    for name, beside in zip(("release", "other"), BESIDE, strict=True):
        Path(name).mkdir()
        shutil.copy(MODEL, name)
        shutil.copy(beside, f"{name}/weights.bin")
    return Path("release"), Path("other")


def test_a_folder_that_is_exchanged_during_the_run_gives_no_verdict(folders: Folders) -> None:
    refused(folders[0] / "model.onnx", folders[0] / "weights.bin", "", lambda: exchange(*folders))


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="only Linux names an open folder")
def test_a_folder_exchanged_while_it_is_read_is_measured_as_digested(folders: Folders, monkeypatch: Patch) -> None:
    """No stamp differs afterwards: it was a PASS under the digest of weights that give a WARN."""
    exchanged: list[int] = []

    def there_or_back() -> None:
        exchange(*folders)
        exchanged.append(1)

    around_sessions(monkeypatch, there_or_back, there_or_back)
    report = check(folders[0] / "model.onnx", images="photos")  # beside it: they stay readable
    assert exchanged == [1, 1]
    assert report.verdict.verdict == "WARN"
    digest = hashlib.sha256((folders[0] / "weights.bin").read_bytes()).hexdigest()
    assert report.evidence.model.external_digests == {"weights.bin": f"sha256:{digest}"}


@pytest.mark.parametrize("back", [False, True])
def test_a_folder_between_model_and_weights_is_watched(folders: Folders, back: bool, monkeypatch: Patch) -> None:
    point(location="release/weights.bin")
    assert verdict() == "WARN"
    around_sessions(monkeypatch, lambda: exchange(*folders), lambda: exchange(*folders) if back else None)
    refused(MODEL, folders[0] / "weights.bin", "never", lambda: None)


@pytest.mark.long
def test_weights_beyond_2_gib_are_watched_to_their_end() -> None:
    """The file is nearly all hole; the weights lie behind 2³¹ bytes."""
    beyond, file_of_weights = (1 << 31) + 4096, Path("weights.bin")
    content = file_of_weights.read_bytes()
    point(offset=str(beyond))
    with file_of_weights.open("wb") as file:
        file.seek(beyond)
        file.write(content)
    assert verdict() == "WARN"
    before = file_of_weights.stat()

    def last_byte() -> None:
        with file_of_weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x01")
        os.utime(file_of_weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    refused(MODEL, file_of_weights, "", last_byte)


def test_every_run_of_a_model_looks() -> None:
    """What `scan`, `compare` and the workers of Ray run, too."""
    runner = Runner(open_model(MODEL), "cpu")
    pixels = np.zeros((2, 64, 64, 3), np.float32)
    before = runner.represent(pixels)[0]
    write(*map(Path, BESIDE))
    raised(CannotAssessError, r"weights file weights\.bin changed during the run", runner.represent, pixels)
    again = Runner(open_model(MODEL), "cpu").represent(pixels)[0]
    assert not np.array_equal(again, before)


@pytest.fixture
def clock(monkeypatch: Patch) -> list[int]:
    """The time in nanoseconds, by which files are aged: it passes while something sleeps."""
    now_ns = [0]
    monkeypatch.setattr(time, "time_ns", lambda: now_ns[0])
    monkeypatch.setattr(time, "sleep", lambda s: now_ns.append(now_ns.pop() + round(s * 1e9)))
    return now_ns


@pytest.mark.parametrize("content_time", [1e9, 2e9])
def test_a_stamp_is_taken_when_the_last_write_is_two_ticks_old(content_time: float, clock: list[int]) -> None:
    """A second write within one tick of the first leaves the same times, whatever day its owner gives the content."""
    file = Path("weights.bin")
    file.write_bytes(b"a")
    os.utime(file, (content_time, content_time))
    clock[0] = written_ns = file.stat().st_ctime_ns
    watched.aged_status(file, "it")
    assert clock[0] - written_ns == 2 * watched.TICK_NS


def test_weights_that_do_not_age_are_refused(clock: list[int]) -> None:
    """They change all the time, or the clock that stamped them is an hour ahead."""
    said = (
        r"^model\.onnx: weights file weights\.bin goes on changing, or changed in the future by this machine's clock; "
    )
    ahead_ns = 3600 * 10**9
    clock[0] = Path("weights.bin").stat().st_ctime_ns - ahead_ns
    raised(CannotAssessError, said, open_model, MODEL)
    clock[0] += ahead_ns
    assert open_model(MODEL).file.external_digests


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has mount namespaces")
@pytest.mark.parametrize("kind", [b"ramfs", b"tmpfs"])
def test_a_write_within_a_tick_of_the_last_is_seen_in_memory_too(kind: bytes, monkeypatch: Patch) -> None:
    """The modification times lie in 2033. On ramfs that was a PASS under the digest of weights that give a WARN.

    The thread has a mount namespace of its own, which ends with it.
    """
    ram, real_read, real_digest = Path("ram"), watched.read_file, watched._digest_of

    def put(other: str) -> None:
        with (ram / "weights.bin").open("r+b") as file:
            file.write(Path(other).read_bytes())
        os.utime(ram / "weights.bin", (2e9, 2e9))

    def write_and_read(*of: Any) -> watched.ExternalFile:
        put("weights.bin")
        return real_read(*of)

    def digest_and_write(file: Any) -> str:
        digest = real_digest(file)
        put("passing.bin")
        return digest

    def attack() -> list[str]:
        libc = ctypes.CDLL(None)
        if libc.unshare(NEW_MOUNTS) or libc.mount(b"", b"/", None, PRIVATE, None):
            pytest.skip("only root may make a mount namespace")
        assert libc.mount(b"", bytes(ram), kind, 0, None) == 0
        for name in ("model.onnx", "weights.bin"):
            shutil.copy(name, ram)
        return [raised(CannotAssessError, "", check, ram / "model.onnx", images="photos").message for _ in range(3)]

    ram.mkdir()
    monkeypatch.setattr(files, "read_file", write_and_read)
    monkeypatch.setattr(watched, "_digest_of", digest_and_write)
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(attack).result()
    said = "ram/model.onnx: weights file weights.bin changed during the run; it must not change after it was digested"
    assert answers == [said] * 3
