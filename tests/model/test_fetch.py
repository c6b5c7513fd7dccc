"""Models behind URLs: weights and sidecars come along, nothing is left on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.cli.app import main
from robustcheck_onnx.checker.errors import CannotAssessError, EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.storage.local import download
from robustcheck_onnx.checker.storage.remote import LIMIT, open_url
from support import onnx_models
from support.profile import PATIENCE_S
from support.stores import ODD, SECRET, put, url_of

pytest.importorskip("fsspec", reason="the extra remote is not installed")
pytestmark = pytest.mark.usefixtures("own_temporary_folder")


def test_weights_and_sidecars_come_with_the_model(tmp_path: Path, memory: Any, own_temporary_folder: Path) -> None:
    folder = tmp_path / "m"
    (folder / "weights").mkdir(parents=True)
    proto = onnx_models.encoder()
    onnx.save(proto, folder / "m.onnx", save_as_external_data=True, location="weights/ü 100%.bin", size_threshold=0)
    (folder / "config.json").write_text('{"architectures": ["X"]}')
    clip = {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": clip}))
    put(memory, folder, ODD)
    here = check(folder / "m.onnx", max_images=3).evidence
    there = check(f"memory://{ODD}/m.onnx", max_images=3).evidence
    assert there.preprocessing == here.preprocessing
    assert there.preprocessing.source == "sidecar"
    assert there.model.external_digests == here.model.external_digests
    assert set(there.model.external_digests) == {"weights/ü 100%.bin"}
    assert there.model.digest == here.model.digest
    assert there.statistics == here.statistics
    assert list(own_temporary_folder.iterdir()) == []

    memory.pipe_file(f"/{ODD}/other.ONNX", b"")  # whose sidecar is it now?
    with pytest.raises(UsageError, match="lies beside 2 models") as caught:
        check(f"memory://{ODD}/m.onnx", max_images=3)
    assert caught.value.message.startswith(f"memory://{ODD}/open_clip_config.json")
    assert str(own_temporary_folder) not in caught.value.message + caught.value.hint

    memory.rm(f"/{ODD}/weights/ü 100%.bin")
    with pytest.raises(CannotAssessError, match="is missing"):
        check(f"memory://{ODD}/m.onnx", max_images=3, preprocess="clip")


def test_a_hubs_layout_has_its_sidecar_above(tmp_path: Path, memory: Any, own_temporary_folder: Path) -> None:
    model = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx").read_bytes()
    clip = {"size": [8, 8], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    memory.pipe_file("/hub/open_clip_config.json", json.dumps({"preprocess_cfg": clip}).encode())
    for name in ("onnx/model.onnx", "onnx/model_fp16.onnx"):
        memory.pipe_file(f"/hub/{name}", model)
    preprocessing = check("memory://hub/onnx/model.onnx", max_images=3).evidence.preprocessing
    assert ("mean", "0.5, 0.5, 0.5", "../open_clip_config.json") in preprocessing.fields

    memory.pipe_file("/hub/other.onnx", b"")
    with pytest.raises(UsageError, match="lies beside 3 models") as caught:
        check("memory://hub/onnx/model.onnx", max_images=3)
    assert caught.value.message.startswith("memory://hub/open_clip_config.json: ")
    assert str(own_temporary_folder) not in caught.value.message + caught.value.hint
    memory.pipe_file("/hub/other.onnx", model)  # whose folder `onnx` holds the others
    with pytest.raises(UsageError, match="lies beside 3 models"):
        check("memory://hub/other.onnx", max_images=3)
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin", "C:/w.bin"])
def test_weights_outside_the_folder_are_refused(
    location: str, tmp_path: Path, memory: Any, own_temporary_folder: Path
) -> None:
    path = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx", external=True)
    proto = onnx.load(path, load_external_data=False)
    for weight in proto.graph.initializer:
        for entry in weight.external_data:
            entry.value = location if entry.key == "location" else entry.value
    memory.pipe_file("/box/in/m.onnx", proto.SerializeToString())
    memory.pipe_file("/box/w.bin", b"0" * 100_000)
    with pytest.raises(CannotAssessError, match="leaves the model's folder") as caught:
        check("memory://box/in/m.onnx")
    assert caught.value.message.startswith("memory://box/in/m.onnx: ")
    assert list(own_temporary_folder.iterdir()) == []


def test_models_that_cannot_be_had(
    memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_temporary_folder: Path
) -> None:
    memory.pipe_file("/box/m.onnx", b"\x08" * 1000)
    with pytest.raises(UsageError, match="missing"):
        check("memory://box/gone.onnx")
    with pytest.raises(UsageError, match="missing"):
        check("memory://box")
    with pytest.raises(CannotAssessError, match=r"^memory://box/m\.onnx: opset_import is missing"):
        check("memory://box/m.onnx")
    whole = onnx_models.save(onnx_models.encoder(), tmp_path / "m.onnx").read_bytes()
    memory.pipe_file("/box/m.onnx", whole)
    monkeypatch.setenv(LIMIT, str(len(whole) - 1))
    with pytest.raises(EnvironmentFaultError, match="download is more than"):
        check("memory://box/m.onnx")
    monkeypatch.setenv(LIMIT, "much")
    with pytest.raises(UsageError, match=LIMIT):
        check("memory://box/m.onnx")
    assert list(own_temporary_folder.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_the_environments_fault(memory: Any) -> None:
    memory.pipe_file("/box/m.onnx", b"x" * 10_000)
    with pytest.raises(EnvironmentFaultError, match="No space left"):
        download(open_url(url_of("memory://box/m.onnx")), Path("/dev/full"), 10**6)


def test_other_verbs_say_that_they_take_no_url(
    lookup_pass: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for verb in (["inspect"], ["scan"], ["compare", str(lookup_pass[0])]):
        assert main([*verb, f"https://u:{SECRET}@h/m.onnx"]) == 2
        said = capsys.readouterr().err
        assert "https://***@h/m.onnx: model is a URL" in said
        assert SECRET not in said


@pytest.mark.process
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
from robustcheck_onnx.checker import isolation
from robustcheck_onnx.checker.cli import main
isolation.START = f"exec({STORE!r}); {isolation.START}"  # the child has the store
sys.exit(main(["memory://m.onnx"]))
"""
    environment = os.environ | {"TMPDIR": str(own_temporary_folder), "SEEN": str(tmp_path / "seen")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 143, done.stderr
    assert (tmp_path / "seen").read_text() == "1 file"
    assert list(own_temporary_folder.glob("robustcheck-*")) == []
