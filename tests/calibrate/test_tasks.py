"""The tasks of a calibration: their keys, when one is done, what is planned, and what an export is called with."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from robustcheck_onnx.checker.calibrate import plan, run, table, tasks
from robustcheck_onnx.checker.evidence import Options
from robustcheck_onnx.checker.statistics import STATISTIC_VERSION
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
    monkeypatch.setattr(tasks, "STATISTIC_VERSION", STATISTIC_VERSION + 1)
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
    incomplete: list[list[Result]] = [
        [],
        [whole],
        [pooled],
        [whole, row("pooled", key="other")],
        [whole, row("pooled", id="b")],
    ]
    for some in incomplete:
        assert table.done(task, some) == ()
    alone = row("representation", tensors=("representation",))
    assert table.done(task, [alone]) == (alone,)
    assert table.done(tasks.Task(task.member, task.model, None, ""), [row("representation", key="")]) == ()


def test_the_plan_of_each_task(suite: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at 4 bytes a parameter; time by that of what was measured on this device: 2 s / 10 images / 1,000 bytes."""
    entry = Entry(id="m", source="timm", name="m", group="other", label="present")
    sizes = {
        "known": {"parameters": 30, "vision_parameters": 20},
        "random": {"parameters": 30, "vision_parameters": 20},
        "without": {"parameters": None, "vision_parameters": None, "fault": "odd"},
        "unknown": {"unknown": "no such model; others"},
    }

    def task(id: str, *, model: Path = Path("none.onnx"), export: Any = "timm", **fields: Any) -> tasks.Task:
        member = Member(id, id, entry.model_copy(update={"id": id, **fields}), "present", None, False)
        return tasks.Task(member, model, None if export is None else {"source": export}, "k")

    ready = suite.folder / "a.onnx"
    work = [
        task("ready", model=ready, export=None),
        task("done", model=ready, export=None),
        *(task(id, random_weights=id == "random") for id in sizes),
    ]
    asked: list[str] = []

    def answers(some: list[tasks.Task]) -> dict[str, Any]:
        asked.extend(each.member.id for each in some)
        return sizes

    monkeypatch.setattr(plan, "_sizes", answers)
    device = {"device": plan.device_name("cpu")}
    measured = Result.model_construct(
        id="done", key="k", tensor="representation", tensors=("representation",), execution=device, wall_s=2.0,
        n_images=10, size_bytes=1000,
    )  # fmt: skip
    made = plan.plan(work, [measured], tasks.Settings(Options(device="cpu"), suite.folder), 50, "sha256:i")
    assert asked == list(sizes)
    size = ready.stat().st_size
    assert [(r.id, r.state, r.download_bytes, r.disk_bytes, r.passes, r.fault) for r in made.rows] == [
        ("ready", "ready file", 0, 0, 50, ""),
        ("done", "measured", 0, 0, 0, ""),
        ("known", "to export", 120, 80, 50, ""),
        ("random", "to export", 0, 80, 50, ""),
        ("without", "to export", None, None, 50, "odd"),
        ("unknown", "can't", 0, 0, 0, "no such model; others"),
    ]
    times = [size * 2 / 10 / 1000 * 50, None, 80 * 2 / 10 / 1000 * 50, 80 * 2 / 10 / 1000 * 50, None, None]
    assert [each.estimate_s for each in made.rows] == [t if t is None else pytest.approx(t) for t in times]


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
