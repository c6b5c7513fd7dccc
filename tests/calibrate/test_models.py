"""`robustcheck calibrate` with real and exported models: published embeddings, a hub's cache, the user's own code."""

import json
import os
import signal
from pathlib import Path

import pytest

from robustcheck_onnx.thresholds import profile, tables
from support import EMBEDDINGS, ROOT, calibrations, needs_embeddings
from support.bad_input import Run, listening
from support.calibrations import line
from support.stores import hub_repo
from support.walls import wait_until


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
    assert fitted.calibration.missed == ()
    assert fitted.calibration.left_out_false_pass == ()
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
    paper = (ROOT / "thresholds" / "data" / "paper_suite.toml").read_text(encoding="utf-8").split("\n[[models]]\n")
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
    found = tables.read(tmp_path / "p.results.jsonl")
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
