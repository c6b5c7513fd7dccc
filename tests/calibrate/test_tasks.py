"""The tasks of a calibration, their keys and plan; real and exported models."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest

from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.statistics.definitions import STATISTIC_VERSION
from robustcheck_onnx.checker.errors import EnvironmentFaultError, UsageError
from robustcheck_onnx.checker.questions.calibrate import plan as planning
from robustcheck_onnx.checker.questions.calibrate import run
from robustcheck_onnx.checker.questions.calibrate.table import done
from robustcheck_onnx.checker.questions.calibrate.task import RECORD, CalibrationSettings, Task, tasks
from robustcheck_onnx.thresholds import profile, results, tables
from robustcheck_onnx.thresholds.results import Result
from robustcheck_onnx.thresholds.suite import Member, OpenedSuite, SuiteEntry, open_suite
from support import EMBEDDINGS, Fields, Patch, but, calibrations, needs_embeddings, raised, read_text
from support.bad_input import Run, listening
from support.calibrations import line
from support.onnx_models import encoder
from support.stores import hub_repo
from support.walls import wait_until


@pytest.fixture
def suite(tmp_path: Path) -> OpenedSuite:
    """A suite of two ready models, each with its preprocessing."""
    text = 'schema_version = 1\nname = "x"\n'
    for name, width in (("a", 16), ("b", 24)):
        onnx.save(encoder(width), tmp_path / f"{name}.onnx")
        (tmp_path / f"{name}.json").write_text("{}")
        text += f'[[models]]\nmodel = "{name}.onnx"\npreprocessing = "{name}.json"\ngroup = "other"\n'
        text += 'label = "present"\n'
    (tmp_path / "suite.toml").write_text(text)
    return open_suite(tmp_path / "suite.toml")


def keys(suite: OpenedSuite, images: str = "sha256:images", **options: Any) -> list[str]:
    return [task.key for task in tasks(suite, CalibrationSettings(Options(**options), suite.folder / "cache"), images)]


def test_whatever_moves_the_numbers_gives_another_key(suite: OpenedSuite, monkeypatch: Patch) -> None:
    seen = [keys(suite), keys(suite, seed=1), keys(suite, max_bad=0.5), keys(suite, device="cpu")]
    seen.append(keys(suite, "sha256:others"))
    for name, other in (("STATISTIC_VERSION", STATISTIC_VERSION + 1), ("versions_of", lambda _: {"onnxruntime": "0"})):
        with monkeypatch.context() as patch:
            patch.setattr(f"robustcheck_onnx.checker.questions.calibrate.task.{name}", other)
            seen.append(keys(suite))
    assert len({key for each in seen for key in each}) == 2 * len(seen)
    assert keys(suite, batch_size=1) == seen[0]
    (suite.folder / "a.json").write_text("{ }")
    assert [one == other for one, other in zip(keys(suite), seen[0], strict=True)] == [False, True]
    onnx.save(encoder(features=8), suite.folder / "b.onnx")
    assert not {*keys(suite)} & {*seen[0]}


def test_a_cached_export_is_known_by_everything_that_influences_it(tmp_path: Path) -> None:
    files = ("mine.py", "p.json", "w.pt", "clip/open_clip_model.safetensors")
    (tmp_path / "clip").mkdir()
    for file in files:
        (tmp_path / file).write_bytes(b"PK")
    (tmp_path / "s.toml").write_text(
        'schema_version = 1\nname = "x"\n[[models]]\nsource = "torch"\nname = "mine:make"\nweights = "w.pt"\n'
        'preprocessing = "p.json"\ngroup = "other"\nlabel = "present"\n'
        '[[models]]\nsource = "open_clip"\nname = "local-dir:clip"\ngroup = "other"\nlabel = "absent"\n'
    )

    def exports() -> tuple[Task, ...]:
        return tasks(
            open_suite(tmp_path / "s.toml"), CalibrationSettings(Options(), tmp_path / "cache"), "sha256:images"
        )

    for file in files:
        before = exports()
        (tmp_path / file).write_bytes(b"PK another")
        same = [(old.model == new.model, new.fault) for old, new in zip(before, exports(), strict=True)]
        is_clip = file.startswith("clip")
        assert same == [(is_clip, None), (not is_clip, None)]
    (tmp_path / "w.pt").unlink()
    fault = exports()[0].fault
    assert fault is not None
    assert (fault.exit_code, fault.hint) == (4, f"place it at {tmp_path / 'w.pt'}")


def test_a_task_is_done_with_all_its_tensors_and_its_own_key(suite: OpenedSuite) -> None:
    def row(tensor: str, **change: Any) -> Result:
        told = {"id": "a", "tensor": tensor, "tensors": ("representation", "pooled"), "key": "k"}
        return Result.model_construct(**(told | change))

    task = Task(suite.members[0], Path("a.onnx"), None, "k")
    whole, pooled, alone = row("representation"), row("pooled"), row("representation", tensors=("representation",))
    others = row("pooled", id="b"), row("pooled", key="other"), row("representation", key="other")
    for given in ((*others, whole, pooled), (pooled, whole, *others)):
        assert done(task, given) == (pooled, whole)
    assert done(task, [alone]) == (alone,)
    for incomplete in ((whole, *others), (pooled, *others)):
        assert done(task, incomplete) == ()
    assert done(replace(task, key=""), [row("representation", key="")]) == ()


def test_the_plan_of_each_task(suite: OpenedSuite, monkeypatch: Patch) -> None:
    """Sizes at 4 bytes a parameter; time by that of what was measured on this device: 2 s / 10 images / 1,000 bytes."""
    entry = SuiteEntry(id="m", source="timm", name="m", group="other", label="present")
    counts = {"parameters": 30, "vision_parameters": 20}
    sizes: Fields = {"known": counts, "random": counts, "without": {"fault": "odd"}}
    sizes["unknown"] = {"unknown": "no such model; others"}

    def task(id: str) -> Task:
        named = but(entry, id=id, random_weights=id == "random")
        return Task(Member(id, id, named, "present", None, False), Path("none.onnx"), {}, "k")

    ready = suite.folder / "a.onnx"
    work = [replace(task(id), model=ready, export=None) for id in ("ready", "done")]
    work += map(task, sizes)
    monkeypatch.setattr(planning, "_sizes", lambda some: {each.member.id: sizes[each.member.id] for each in some})
    device = {"device": planning.device_name("cpu")}
    measured = Result.model_construct(
        id="done", key="k", tensor="representation", tensors=("representation",), execution=device, wall_s=2.0,
        n_images=10, size_bytes=1000,
    )  # fmt: skip
    made = planning.plan(work, [measured], CalibrationSettings(Options(device="cpu"), suite.folder), 50, "sha256:i")
    size = ready.stat().st_size
    assert [(r.id, r.state, r.download_bytes, r.disk_bytes, r.passes, r.fault) for r in made.rows] == [
        ("ready", "ready file", 0, 0, 50, ""), ("done", "measured", 0, 0, 0, ""),
        ("known", "to export", 120, 80, 50, ""), ("random", "to export", 0, 80, 50, ""),
        ("without", "to export", None, None, 50, "odd"), ("unknown", "can't", 0, 0, 0, "no such model; others"),
    ]  # fmt: skip
    bytes_ = [(each.estimate_s or 0) / (2 / 10 / 1000 * 50) for each in made.rows]
    assert bytes_ == pytest.approx([size, 0, 80, 80, 0, 0])
    assert [each.estimate_s is None for each in made.rows] == [not each for each in bytes_]
    assert raised(UsageError, "suite entry unknown: no such model", planning.refuse_unknown, work).hint == "others"
    sizes["known"] = {"missing": "timm"}
    with pytest.raises(EnvironmentFaultError, match=r"1 of 5 models can't be planned: .* only with timm installed"):
        planning.plan(work, [measured], CalibrationSettings(Options(device="cpu"), suite.folder), 50, "sha256:i")


EXPORTS = {
    "weights=openai": "--weights openai",
    "weights=w.pt": "--weights {0}/w.pt",
    "weights=there": "--weights {0}/there",
    "weights=not/there": "--weights {0}/not/there",
    "random_weights=yes preprocessing=p.json head=h": "--random-weights --preprocess {0}/p.json --head h",
}


def test_an_export_is_called_with_all_that_the_entry_says(tmp_path: Path, monkeypatch: Patch) -> None:
    started = MagicMock()
    process = started.return_value.__enter__.return_value
    process.communicate.return_value, process.returncode = (None, ""), 0
    monkeypatch.setattr(run.subprocess, "Popen", started)  # type: ignore[attr-defined] # the module, here and there
    (tmp_path / "there").write_bytes(b"PK")
    for fields, expected in EXPORTS.items():
        said: Any = dict(field.split("=") for field in fields.split())
        entry = SuiteEntry(source="torch", name="mine:make", group="other", label="present", **said)
        member = Member("m", "m", entry, "present", None, False)
        model = tmp_path / "cache" / "m.onnx"
        task = Task(member, model, {"source": "torch"}, "k")
        run._export(tmp_path, task)
        start = [sys.executable, "-P", "-m", "robustcheck_onnx.checker", "export", "torch", "mine:make"]
        assert started.call_args.args[0] == [*start, "-o", str(model), *expected.format(tmp_path).split()]
        assert started.call_args.kwargs["cwd"] == tmp_path
    assert not task.is_exported  # there is a record, and no model
    model.write_bytes(b"")
    assert task.is_exported
    (model.parent / RECORD).unlink()
    assert not task.is_exported


@pytest.mark.long
@needs_embeddings
def test_real_embeddings_give_thresholds_as_the_reference_table_does(tmp_path: Path, ends: Run) -> None:
    """Another sample of the same vectors, confidence bounds instead of subsets: the same sets fall on the same side."""
    suite = calibrations.write_suite(tmp_path, EMBEDDINGS)
    out = tmp_path / "real.json"
    ends(0, f"{line(suite, tmp_path / 'photos', out)} --workers 2")
    fitted, default = profile.load(out), profile.load()
    many = {row.set for row in tables.references() if row.n >= 120} - {"physicist_b16_pathmnist"}  # tissue: all alike
    assert set(fitted.calibration.with_indication) == set(default.calibration.with_indication) & many
    assert (fitted.calibration.missed, fitted.calibration.left_out_false_pass) == ((), ())
    for name, threshold in fitted.thresholds.items():
        gap = default.thresholds[name]
        assert gap.highest_without < threshold.minimum < gap.lowest_with
        if name != "two_sidedness":  # its gap is wide, and the lower end is another set here
            assert threshold.minimum == pytest.approx(gap.minimum, rel=0.1)


@pytest.mark.long
def test_the_papers_plan_has_every_model_and_its_size(tmp_path: Path, ends: Run) -> None:
    pytest.importorskip("open_clip", reason="extra `export` is not installed")
    pytest.importorskip("timm", reason="extra `export` is not installed")
    plan = json.loads(ends(0, f"calibrate --suite paper --plan --cache {tmp_path}/cache -o json").stdout)["rows"]
    assert [(row["state"], row["fault"]) for row in plan] == [("to export", "")] * 81
    sizes = {row["id"]: (row["download_bytes"], row["disk_bytes"]) for row in plan}
    # as in open_clip's docs/model_profile.csv (151.28 M, image 87.85 M) and in torchvision's documentation (25,557,032)
    download, disk = sizes["open_clip:ViT-B-32/openai"]
    assert (round(download / 4e6, 2), round(disk / 4e6, 2)) == (151.28, 87.85)
    assert sizes["torchvision:resnet50/IMAGENET1K_V1"] == (4 * 25_557_032, 4 * 25_557_032)


@pytest.mark.long
def test_the_whole_path_offline_with_stand_in_weights(tmp_path: Path, ends: Run) -> None:
    """Entries of the packaged suite by their own names, from a cache laid out as the hub client does; what is not in
    it fails alone with what to place where; look-up models beside them."""
    open_clip = pytest.importorskip("open_clip", reason="extra `export` is not installed")
    timm = pytest.importorskip("timm", reason="extra `export` is not installed")
    from safetensors.torch import save_file

    cache, name = tmp_path / "hub", "test_resnet.r160_in1k"  # the smallest that timm publishes
    model = open_clip.create_model("RN50", load_weights=False)
    save_file(model.state_dict(), hub_repo(cache, "timm/resnet50_clip.openai") / "open_clip_model.safetensors")
    state = timm.create_model(name, pretrained=False).state_dict()
    save_file(state, hub_repo(cache, f"timm/{name}") / "model.safetensors")
    folder = tmp_path / "suite"
    suite = calibrations.write_suite(folder)
    paper = read_text("thresholds/data/paper_suite.toml").split("\n[[models]]\n")
    keys = ('name = "RN50"\nweights = "openai"', 'name = "mobilenetv3_large_100.ra_in1k"')
    blocks = [next(block for block in paper if key in block) for key in keys]
    blocks.append(f'source = "timm"\nname = "{name}"\ngroup = "supervised"\nlabel = "absent"\n')
    with suite.open("a", encoding="utf-8") as file:
        file.writelines(f"\n[[models]]\n{block}" for block in blocks)

    call = line(suite, folder / "photos", tmp_path / "p.json")
    missing = "as 1 models could not be measured: timm:mobilenetv3_large_100.ra_in1k: mobilenetv3_large_100.ra_in1k: we"
    place = "copy models--timm--mobilenetv3_large_100.ra_in1k into $HF_HOME/hub"
    ends(4, f"{call} --workers 2", missing, place, HF_HOME=str(cache))
    assert not (tmp_path / "p.json").exists()
    found = results.read(tmp_path / "p.results.jsonl")
    assert {(row.id, row.tensor): row.rule for row in found if ":" in row.id} == {
        ("open_clip:RN50/openai", "representation"): "encoder_output",
        ("open_clip:RN50/openai", "pooled"): "pooled",
        (f"timm:{name}", "representation"): "head_input",
    }


MINE = """
import os, signal, time
def crash(): os.kill(os.getpid(), signal.SIGKILL)
def slow():
    open("running", "w").write(str(os.getpid()))
    time.sleep(300)
"""


@pytest.mark.long
def test_an_export_that_crashes_fails_alone_and_one_in_progress_ends_with_the_run(tmp_path: Path) -> None:
    """The user's own code is found beside the suite; it runs in a process of its own."""
    pytest.importorskip("torch", reason="extra `export` is not installed")
    (tmp_path / "mine_for_calibrate.py").write_text(MINE)
    entry = '[[models]]\nsource = "torch"\nname = "mine_for_calibrate:{}"\ngroup = "other"\nlabel = "{}"\n'
    text = 'schema_version = 1\nname = "x"\n' + entry.format("crash", "present") + entry.format("slow", "absent")
    (tmp_path / "suite.toml").write_text(text)
    call, running = "calibrate --suite suite.toml --out p.json --cache exports", tmp_path / "running"
    with listening(tmp_path, *call.split()) as process:
        wait_until(lambda: process.poll() is not None or (running.exists() and running.read_text()))
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate()
    assert process.returncode == 143
    assert "failed torch:mine_for_calibrate:crash: torch:mine_for_calibrate:crash: export was ended by sig" in stderr
    assert "error: terminated (SIGTERM)" in stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)
    assert not [*tmp_path.glob("p.*"), *tmp_path.rglob("*.onnx")]
