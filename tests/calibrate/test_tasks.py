"""The tasks of a calibration: what their keys depend on, when one is done, and what an export is called with."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from robustcheck_onnx.checker.calibrate import run, table, tasks
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.thresholds.results import Result
from robustcheck_onnx.thresholds.suite import Entry, Member, Opened, open_suite
from support import onnx_models


@pytest.fixture
def suite(tmp_path: Path) -> Opened:
    """A suite of two ready models, each with its preprocessing."""
    entries = ""
    for name, label, width in (("a", "present", 16), ("b", "absent", 24)):
        onnx.save(onnx_models.encoder(width), tmp_path / f"{name}.onnx")
        (tmp_path / f"{name}.json").write_text("{}")
        entries += f'[[models]]\nmodel = "{name}.onnx"\npreprocessing = "{name}.json"\n'
        entries += f'group = "other"\nlabel = "{label}"\n'
    (tmp_path / "suite.toml").write_text(f'schema_version = 1\nname = "x"\n{entries}')
    return open_suite(tmp_path / "suite.toml")


def keys(suite: Opened, images: str = "sha256:images", **options: Any) -> list[str]:
    settings = tasks.Settings(Options(**options), suite.folder / "cache")
    return [task.key for task in tasks.tasks(suite, settings, images)]


def test_whatever_moves_the_numbers_gives_another_key(suite: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [keys(suite), keys(suite, seed=1), keys(suite, max_bad=0.5), keys(suite, device="cpu")]
    seen.append(keys(suite, "sha256:others"))
    monkeypatch.setattr(tasks, "STATISTIC_VERSION", tasks.STATISTIC_VERSION + 1)
    seen.append(keys(suite))
    monkeypatch.undo()
    monkeypatch.setattr(tasks, "versions_of", lambda _: {"onnxruntime": "0"})
    seen.append(keys(suite))
    monkeypatch.undo()
    assert len({key for each in seen for key in each}) == 2 * len(seen)
    assert keys(suite, batch_size=1) == seen[0]
    (suite.folder / "a.json").write_text("{ }")
    assert [one == other for one, other in zip(keys(suite), seen[0], strict=True)] == [False, True]
    onnx.save(onnx_models.encoder(features=8), suite.folder / "b.onnx")
    assert not {*keys(suite)} & {*seen[0]}


def row(
    tensor: str, *, id: str = "a", key: str = "k", tensors: tuple[str, ...] = ("representation", "pooled")
) -> Result:
    return Result.model_construct(id=id, tensor=tensor, tensors=tensors, key=key)


def test_a_task_is_done_with_all_its_tensors_and_its_own_key(suite: Opened) -> None:
    task = tasks.Task(suite.members[0], Path("a.onnx"), None, "k")
    whole, pooled = row("representation"), row("pooled")
    for rows in itertools.permutations((whole, pooled, row("pooled", id="b"), row("representation", key="other"))):
        assert table.done(task, rows) == (pooled, whole)
    for rows in ([], [whole], [pooled], [whole, row("pooled", key="other")], [whole, row("pooled", id="b")]):
        assert table.done(task, rows) == ()
    alone = row("representation", tensors=("representation",))
    assert table.done(task, [alone]) == (alone,)
    assert table.done(tasks.Task(task.member, task.model, None, ""), [row("representation", key="")]) == ()


EXPORTS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, []),
    ({"head": "model.fc"}, ["--head", "model.fc"]),
    ({"random_weights": True}, ["--random-weights"]),
    ({"weights": "openai"}, ["--weights", "openai"]),
    ({"weights": "w.pt"}, ["--weights", "{folder}/w.pt"]),
    ({"weights": "there"}, ["--weights", "{folder}/there"]),
    ({"weights": "not/there"}, ["--weights", "{folder}/not/there"]),
    ({"preprocessing": "p.json"}, ["--preprocessing", "{folder}/p.json"]),
    (
        {"head": "h", "random_weights": True, "preprocessing": "p.json"},
        ["--random-weights", "--preprocessing", "{folder}/p.json", "--head", "h"],
    ),
]


def test_an_export_is_called_with_all_that_the_entry_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[list[str], Path]] = []

    class Popen:
        """A process that ends well at once."""

        returncode = 0

        def __init__(self, command: list[str], cwd: Path, **_: Any) -> None:
            calls.append((command, cwd))

        def __enter__(self) -> Popen:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def communicate(self) -> tuple[None, str]:
            return None, ""

    monkeypatch.setattr(run.subprocess, "Popen", Popen)  # type: ignore[attr-defined] # the module, here and there
    (tmp_path / "there").write_bytes(b"PK")
    for fields, expected in EXPORTS:
        entry = Entry(source="torch", name="mine:make", group="other", label="present", **fields)
        member = Member("m", "m", entry, "present", None, False)
        model = tmp_path / "cache" / "m.onnx"
        task = tasks.Task(member, model, {"source": "torch"}, "k")
        assert not task.is_exported
        run._export(tmp_path, task)
        words = [word.format(folder=tmp_path) for word in expected]
        start = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", "export", "torch", "mine:make"]
        assert calls.pop() == ([*start, "-o", str(model), *words], tmp_path)
        model.write_bytes(b"")
        assert task.is_exported
        model.unlink()
        (model.parent / tasks.RECORD).unlink()
