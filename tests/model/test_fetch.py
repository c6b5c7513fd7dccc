"""Models behind URLs: weights and sidecars come along, nothing is left on the disk."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from robustcheck_onnx import check, compare, inspect
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from robustcheck_onnx.checker.outside.storage.stores import LIMIT, download, open_url
from support import PATIENCE_S, Patch, Place, raised
from support.onnx_models import encoder, save
from support.stores import ODD, put, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


CLIP = json.dumps({"preprocess_cfg": {"size": [8, 8], "mean": [0.5] * 3, "std": [0.5] * 3}})


@pytest.fixture
def refused(own_temporary_folder: Path) -> Callable[..., None]:
    """Check what is behind a URL: an error that names it and nothing of the copy, which is gone."""

    def refused_(kind: type[RobustcheckError], url: str, message: str, **options: Any) -> None:
        caught = raised(kind, message, check, url, max_images=3, **options)
        assert str(own_temporary_folder) not in caught.message + caught.hint
        assert list(own_temporary_folder.iterdir()) == []

    return refused_


def test_weights_and_sidecars_come_with_the_model(
    tmp_path: Path, memory: Any, own_temporary_folder: Path, refused: Callable[..., None]
) -> None:
    folder, weights = tmp_path / "m", "weights/ü 100%.bin"
    (folder / "weights").mkdir(parents=True)
    onnx.save(encoder(), folder / "m.onnx", save_as_external_data=True, location=weights, size_threshold=0)
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    (folder / "open_clip_config.json").write_text(CLIP)
    put(memory, folder, ODD)
    url = f"memory://{ODD}/m.onnx"
    here, there = (check(model, max_images=3).evidence for model in (folder / "m.onnx", url))
    assert (there.preprocessing.source, set(there.model.external_digests)) == ("sidecar", {weights})
    assert (there.preprocessing, there.model.digest) == (here.preprocessing, here.model.digest)
    assert there.statistics == here.statistics
    assert list(own_temporary_folder.iterdir()) == []
    memory.pipe_file(f"/{ODD}/other.ONNX", b"")  # whose sidecar is it now?
    refused(UsageError, url, f"^memory://{ODD}/open_clip_config.json.* lies next to 2 models")
    memory.rm(f"/{ODD}/{weights}")
    refused(CannotAssessError, url, "is missing", preprocess="clip")


def test_a_hubs_layout_has_its_sidecar_above(memory: Any, refused: Callable[..., None]) -> None:
    model = encoder().SerializeToString()
    memory.pipe_file("/hub/open_clip_config.json", CLIP.encode())
    for name in ("onnx/model.onnx", "onnx/model_fp16.onnx"):
        memory.pipe_file(f"/hub/{name}", model)
    preprocessing = check("memory://hub/onnx/model.onnx", max_images=3).evidence.preprocessing
    assert ("mean", "0.5, 0.5, 0.5", "../open_clip_config.json") in preprocessing.fields
    memory.pipe_file("/hub/other.onnx", model)
    for name in ("onnx/model.onnx", "other.onnx"):  # whose folder `onnx` holds the others
        refused(UsageError, f"memory://hub/{name}", r"^memory://hub/open_clip_config\.json: .*lies next to 3 models")


@pytest.mark.parametrize("other", ["b.onnx", "onnx/b.ONNX", "..\\b.onnx"])
def test_a_sidecar_next_to_a_model_that_is_not_fetched_is_refused_by_every_question(
    other: str, memory: Any, lookup_pass: Place, refused: Callable[..., None]
) -> None:
    """The other model is listed and never read. A name with a backslash is one file of a store."""
    model, photos = lookup_pass
    memory.pipe_file("/box/a.onnx", encoder().SerializeToString())
    memory.pipe_file("/box/open_clip_config.json", CLIP.encode())
    url, message = "memory://box/a.onnx", "^memory://box/open_clip_config.json: sidecar lies next to 2 models"
    assert inspect(url).can_pass.answer == "no"  # too narrow
    assert inspect(url).facts["preprocessing"][0]["source"] == "open_clip_config.json"
    memory.pipe_file(f"/box/{other}", b"never read")
    refused(UsageError, url, message)
    raised(UsageError, message, compare, url, model, photos, max_images=60)
    raised(UsageError, message, compare, model, url, photos, max_images=60)
    inspected = inspect(url)
    assert inspected.facts["preprocessing"] is None
    (why,) = [each for each in inspected.can_pass.reasons if each.id == "assumed_preprocessing"]
    assert re.match(message.removeprefix("^"), why.seen)
    assert inspect(url, preprocess="clip").facts["preprocessing"] is not None


def test_models_not_to_be_had(memory: Any, tmp_path: Path, monkeypatch: Patch, refused: Callable[..., None]) -> None:
    memory.pipe_file("/box/m.onnx", b"\x08" * 1000)
    refused(UsageError, "memory://box/gone.onnx", "missing")
    refused(UsageError, "memory://box", "missing")
    refused(CannotAssessError, "memory://box/m.onnx", r"^memory://box/m\.onnx: opset_import is missing")
    content = save(encoder(), tmp_path / "m.onnx", external=True).read_bytes()
    memory.pipe_file("/box/m.onnx", content.replace(b"m.onnx.data", b"../box/data"))
    memory.pipe_file("/box/data", b"0" * 100_000)
    refused(CannotAssessError, "memory://box/m.onnx", r"^memory://box/m\.onnx: .*leaves the model's folder")
    for limit, kind, message in (("9", EnvironmentFaultError, "download is more than"), ("much", UsageError, LIMIT)):
        monkeypatch.setenv(LIMIT, limit)
        refused(kind, "memory://box/m.onnx", message)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_the_environments_fault(memory: Any) -> None:
    memory.pipe_file("/box/m.onnx", b"x" * 10_000)
    file = open_url(url_of("memory://box/m.onnx"))
    raised(EnvironmentFaultError, "No space left", download, file, Path("/dev/full"), 10**6)


def test_sigterm_leaves_nothing(own_temporary_folder: Path, tmp_path: Path) -> None:
    """The signal comes while the model is being downloaded: the copy is there, and then it is not."""
    program = """
STORE = '''
import os, pathlib, signal, fsspec
from fsspec.implementations.memory import MemoryFileSystem
fsspec.filesystem("memory").pipe_file("/m.onnx", b"x" * 1000)
def read(self, path, **more):
    there = list(pathlib.Path(os.environ["TMPDIR"]).glob("robustcheck-*/robustcheck-*/m.onnx"))
    pathlib.Path(os.environ["SEEN"]).write_text(f"{len(there)} file")
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
MemoryFileSystem.cat_file = read
'''
import sys
from robustcheck_onnx.checker.outside import isolation
from robustcheck_onnx.checker.cli import main
isolation.START = f"exec({STORE!r}); {isolation.START}"  # the child has the store
sys.exit(main(["memory://m.onnx"]))"""
    environment = os.environ | {"TMPDIR": str(own_temporary_folder), "SEEN": str(tmp_path / "seen")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "seen").read_text() == "1 file"
    assert list(own_temporary_folder.glob("robustcheck-*")) == []
