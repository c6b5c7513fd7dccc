"""The whole check: what its options are, images on the edge, what the report holds, the file of representations."""

import inspect
import json
import os
import re
import tracemalloc
import zipfile
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from onnx import numpy_helper
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx import Progress, Report, check, load_representations, scan
from robustcheck_onnx.checker.cli.options import ROWS, Settings
from robustcheck_onnx.checker.cli.verbs import gates, make, questions
from robustcheck_onnx.checker.core.evidence import PreprocessingFacts
from robustcheck_onnx.checker.core.images.source import Item, Skipped
from robustcheck_onnx.checker.core.measure.loop import AHEAD
from robustcheck_onnx.checker.core.measure.opening import Inputs, OpenedJob, open_sessions
from robustcheck_onnx.checker.core.measure.prepare import Prepared, prepare_item
from robustcheck_onnx.checker.core.options import Options
from robustcheck_onnx.checker.core.preprocessing import CLIP
from robustcheck_onnx.checker.core.runtime.batch_trial import TRIED
from robustcheck_onnx.checker.core.statistics.intervals import FIRST_LOOK
from robustcheck_onnx.checker.core.verdict import rule
from robustcheck_onnx.checker.errors import CannotAssessError, UsageError
from robustcheck_onnx.checker.outside.image_sets.open import open_images, settle
from robustcheck_onnx.checker.outside.representations import Provenance, Saver
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.checker.text import as_json
from robustcheck_onnx.thresholds import profile
from support import (
    PATIENCE_S,
    TORN_NPY,
    Capture,
    Fields,
    Patch,
    Place,
    but,
    documents,
    lookup,
    normal,
    onnx_models,
    raised,
)
from support.bad_input import Run
from support.measuring import never_decided, never_narrow


@pytest.mark.long
def test_the_supervised_network_warns_as_measured_before(efficientnet_lite0: Path) -> None:
    report = check(efficientnet_lite0)
    assert report.verdict.verdict == "WARN"
    assert [r.id for r in report.verdict.reasons] == ["one_sided", "too_weak", "not_persistent"]
    s = report.evidence.statistics
    assert s.kurtosis.estimate == pytest.approx(18.5, abs=3.5)  # 17.08 and 19.95 on other photos
    assert (s.two_sidedness.estimate, s.persistent, s.n_images) == (0, (), FIRST_LOOK)


def test_photos_are_decoded_while_the_session_opens(lookup_pass: Place, monkeypatch: Patch) -> None:
    ready: Queue[str] = Queue()

    def prepared(item: Item, inputs: Inputs) -> Prepared | Skipped:
        ready.put(item.name)
        return prepare_item(item, inputs)

    def opened(inputs: Inputs) -> OpenedJob:
        names = {ready.get(timeout=PATIENCE_S) for _ in range(AHEAD)}  # raises where nobody decodes meanwhile
        # the probe took some out of the window already, and two threads decode: later ones may be among them
        assert names <= set(inputs.source.entries[: AHEAD + TRIED].names())
        return open_sessions(inputs)

    monkeypatch.setattr("robustcheck_onnx.checker.core.measure.loop.prepare_item", prepared)
    monkeypatch.setattr("robustcheck_onnx.checker.questions.check.open_sessions", opened)
    n_images = check(lookup_pass[0], images=lookup_pass[1], thresholds=never_decided()).evidence.statistics.n_images
    assert (n_images, ready.qsize()) == (80, 80 - AHEAD)  # each is decoded once, those of the probe too


def test_the_report_is_json_that_fits_its_schema(passed: Report) -> None:
    raw = json.loads(to_json(passed), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert documents.fault_of(to_json(passed)) == ""
    assert "is not valid under any of the given schemas" in documents.fault_of(as_json(raw | {"more": 1}))


def test_progress_is_told_after_every_batch_and_nothing_is_printed(lookup_pass: Place, capfd: Capture) -> None:
    model, photos = lookup_pass
    seen: list[Progress] = []
    check(model, images=photos, batch_size=16, progress=seen.append, thresholds=never_narrow())
    assert capfd.readouterr() == ("", "")
    stages = ["opening the model and the images", "loading the model", "trying the model on a few images"]
    assert [(p.stage, p.n_done, p.n_total, "against" in p.interval) for p in seen] == [
        *((stage, 0, 0, False) for stage in stages),
        *(("first images", n, 80, False) for n in range(1, 17)),
        *(("", n, 80, n >= 50) for n in (16, 32, 48, 50, 64, 80)),  # a batch ends where the run looks
    ]
    # the first 16 were read before they were measured, so they have no rate
    assert [p.n_done for p in seen if p.images_per_s] == [32, 48, 50, 64, 80]


def test_a_bad_image_is_seen_or_not_by_the_seed_of_a_run_that_stops_early(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    for path in photos.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    # one bad of 81 (1.2 %, more than the 1 % allowed): a run that stops early may see it or not, by the seed
    early = [check(model, images=tmp_path, seed=seed) for seed in range(4)]
    assert {(report.passed, report.evidence.images.n_skipped) for report in early} == {(True, 0), (True, 1)}


def test_a_few_representations_again_and_again_never_pass(
    lookup_pass: Place, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Two representations over 80 varied photos, each with the same strong feature: all six statistics clear."""
    rng = default_rng(4)
    two = rng.normal(size=(2, 512))
    two[:, 7] += 20
    h = two[rng.integers(0, 2, 80)] * rng.uniform(0.5, 2, (80, 1))
    report = check(lookup.write_lookup_model(tmp_path / "two.onnx", h), images=lookup_pass[1])
    assert report.evidence.statistics.distinct_share < 0.1
    assert [reason.id for reason in report.verdict.reasons] == ["representations_alike", "little_content"]
    # so these two rules are what held it
    for line, reasons in (("DISTINCT_SHARE", ["little_content"]), ("MIN_EFFECTIVE_RANK", [])):
        monkeypatch.setattr(rule, line, 0.0)
        assert [reason.id for reason in rule.judge(report.evidence, report.profile).reasons] == reasons


def test_other_thresholds_and_other_preprocessing_are_said(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    plain = check(model, images=photos)
    assert not any("--thresholds" in note or "--preprocess" in note for note in plain.notes)
    changed = but(profile.load(), min_images=2)
    # its digest, or its id, would say that the packaged thresholds had judged
    for other, said in (
        (changed, "digest does not match the"),
        (profile.seal(but(changed, alpha=0.01)), "alpha is 0"),
        (but(changed, alpha=2.0), "profile default-4: alpha: "),
        (profile.seal(changed), "id is default-4, but the content is not"),
        (profile.seal(but(changed, id="default")), "id is default, but the content is not"),
    ):
        raised(UsageError, said, check, model, images=photos, thresholds=other)
    loose = profile.seal(but(changed, id="mine-1"))
    (note,) = [note for note in check(model, images=photos, thresholds=loose).notes if "--thresholds" in note]
    assert loose.digest[:19] in note
    own = plain.evidence.preprocessing.preprocessing
    for preprocessing, reasons in ((own, []), (but(own, color_order="BGR"), ["preprocessing_against_contract"])):
        (tmp_path / "p.json").write_text(preprocessing.model_dump_json())
        verdict = check(model, images=photos, preprocess=str(tmp_path / "p.json")).verdict
        assert [reason.id for reason in verdict.reasons][:1] == reasons


def test_published_robustness_is_context_and_decides_nothing(lookup_pass: Place, tmp_path: Path) -> None:
    h = normal(80, 512)  # nothing to see: WARN whatever is published
    known = {"library": "open_clip", "name": "ViT-B-32", "weights": "openai", "synthetic": ""}
    for changes in ({}, {"weights": "no such tag"}, {"random_weights": True}, {"synthetic": "planted"}):
        model = lookup.write_lookup_model(tmp_path / "m.onnx", h, source=known | changes)
        report = check(model, images=lookup_pass[1])
        published = report.published and report.published.mean_pp
        assert published == (None if changes else pytest.approx(27.2, abs=0.05))  # +5.4, +28.0, +44.8, +30.5
        assert report.verdict.verdict == "WARN"
        assert Report.model_validate_json(to_json(report)) == report


def test_keywords_become_the_record() -> None:
    options = Options.of({"images": Path("photos"), "seed": 3}, max_images=64)
    assert options == Options(images="photos", seed=3, max_images=64) == Options.of(options.keywords)
    assert Options.of({"max_images": None}, max_images=64).max_images is None
    raised(rc.UsageError, "^imagess is 'photos'", Options.of, {"imagess": "photos"})


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
        raised(rc.UsageError, "unknown keyword sead. Did you mean seed", function, "none.onnx", sead=1)
    several = "^rc.measure_shift: multiple values for argument 'images'"
    raised(rc.UsageError, several, rc.measure_shift, "none.onnx", "photos", ["sketches"], images="other")


def test_settings_and_verbs_have_the_records_defaults() -> None:
    """`calibrate` names the tensor to fit, not the one to measure."""
    assert (Settings().options, set(Options.model_fields) - set(ROWS)) == (Options(), set())
    others: dict[str, Fields] = {
        "check": {}, "compare": {"max_images": 1000}, "scan": {"max_images": 64}, "directions": {"max_images": 300},
        "shift": {}, "concepts": {}, "calibrate": {"tensor": "auto"},
    }  # fmt: skip
    modules = {"check": gates, "compare": gates, "calibrate": make}
    for verb, other in others.items():
        given = inspect.signature(getattr(modules.get(verb, questions), verb)).parameters.items()
        shared = {name: parameter.default for name, parameter in given if name in Options.model_fields}
        assert {"device", "seed", "max_images", "max_bad", "batch_size"} <= shared.keys()
        assert shared.items() <= (dict(Options()) | other).items(), verb


# ---------------------------------------------------- representations in a file, equal to what the model gave


def test_a_check_saves_what_it_measured(lookup_pass: Place, tmp_path: Path) -> None:
    model, photos = lookup_pass
    path = tmp_path / "rows.npz"
    report = check(model, images=photos, save_representations=path)
    saved = load_representations(path)
    statistics, facts = report.evidence.statistics, report.evidence.model
    assert len(saved) == statistics.n_images == len(set(saved.digests))
    weights = onnx.load(model).graph.initializer
    embeddings = numpy_helper.to_array(next(each for each in weights if each.name == "embeddings"))
    rows = [int(name.removeprefix("photo_").removesuffix(".png")) for name in saved.names]
    assert_array_equal(saved.values, embeddings[rows])
    again = rc.measure(saved)
    for name in ("kurtosis", "persistence_ratio", "top3_share", "outlier_frequency", "negative_energy"):
        assert getattr(again, name).estimate == pytest.approx(getattr(statistics, name).estimate, rel=1e-12)
    assert again.histogram_counts == statistics.histogram_counts
    made_with = saved.made_with
    assert (made_with.model_digest, made_with.preprocessing) == (facts.digest, report.evidence.preprocessing)
    assert re.match("<Representations: .*512 features", repr(saved))


def test_a_scan_saves_the_representation(tmp_path: Path) -> None:
    model = onnx_models.save(onnx_models.encoder(), tmp_path / "model.onnx")
    scan(model, max_images=9, save_representations=tmp_path / "scan.npz")
    check(model, max_images=9, save_representations=tmp_path / "check.npz")
    of_scan, of_check = (load_representations(tmp_path / f"{verb}.npz") for verb in ("scan", "check"))
    assert_allclose(of_scan.values, of_check.values, rtol=1e-5)
    assert (of_scan.names, of_scan.made_with) == (of_check.names, of_check.made_with)


def test_images_that_cannot_be_measured_are_left_out(lookup_pass: Place, tmp_path: Path) -> None:
    rows = normal(80, 32)
    rows[3], rows[7, 5] = 1.0, np.nan
    model = lookup.write_lookup_model(tmp_path / "model.onnx", rows)
    check(model, images=lookup_pass[1], thresholds=never_decided(), save_representations=tmp_path / "rows.npz")
    left = {f"photo_{i:05d}.png" for i in range(80)} - {"photo_00003.png", "photo_00007.png"}
    assert set(load_representations(tmp_path / "rows.npz").names) == left


READ = PreprocessingFacts(preprocessing=CLIP, source="contract", fields=())
MADE_WITH = Provenance(
    model="m", model_digest="sha256:0", tensor="t", pool="none", preprocessing=READ, images="i", seed=0
)


def test_memory_is_flat_while_a_file_is_written(tmp_path: Path) -> None:
    rows = normal(256, 1024).astype(np.float32)  # 1 MiB
    path = tmp_path / "rows.npz"
    tracemalloc.start()
    try:
        with Saver(path) as saver:
            for _ in range(80):
                saver.add(rows, [SimpleNamespace(name="a", digest="b")] * 256)
            assert list(tmp_path.iterdir()) == []  # no file that a kill would leave
            saver.write(MADE_WITH)
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # of 80 MiB
    finally:
        tracemalloc.stop()
    assert len(load_representations(path)) == 80 * 256


def test_a_run_that_fails_leaves_no_file_and_an_earlier_one_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(b"earlier")
    broken = lookup.write_lookup_model(tmp_path / "nan.onnx", np.full((9, 16), np.nan))
    raised(CannotAssessError, "no usable", check, broken, max_images=9, save_representations=tmp_path / "rows.npz")
    assert (tmp_path / "rows.npz").read_bytes() == b"earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["nan.onnx", "rows.npz"]


def test_the_command_names_a_file_for_each_model_and_refuses_other_places(here: Path, ends: Run) -> None:
    before = {*here.iterdir()}
    for words, said in (
        ("warn.onnx {} rows.npz", "each needs its own file"),
        ("{} rows.safetensors", "np.load('rows.npz')['representations']"),
        ("{} missing/rows.npz", "folder missing is missing"),
        ("{} rows.npz -o json=rows.npz", "must be another file"),
    ):
        ends(2, f"pass.onnx --images photos {words.format('--save-representations')}", said)
    assert {*here.iterdir()} - before <= {here / "rows.npz"}  # an error document, as asked for
    done = ends(1, "pass.onnx warn.onnx --images photos --save-representations {model}.npz")
    assert "representations:warn.npz" in "".join(done.stdout.split())
    assert [load_representations(f"{each}.npz").made_with.model for each in ("pass", "warn")] == [
        "pass.onnx",
        "warn.onnx",
    ]
    for circle in ("circle", "circle.npz"):
        (here / circle).symlink_to(circle)
    for place in ("circle.npz", "circle/rows.npz"):
        raised(UsageError, "leads nowhere", Saver, here / place)
    raised(UsageError, r"can't be opened there \(File name too long\)", Saver, here / f"{300 * 'a'}.npz")
    assert (here / "circle.npz").is_symlink()


def test_files_that_hold_no_representations(tmp_path: Path) -> None:
    place = tmp_path / "rows.npz"
    place.write_bytes(b"no archive")
    for path in (place, tmp_path / "none.npz"):
        raised(UsageError, "representations file", load_representations, path)
    rows, names, digests = np.ones((2, 3)), np.array(["a", "b"]), np.array(["c", "d"])
    sound: Fields = {"representations": rows, "names": names, "digests": digests}
    sound["made_with"] = np.array(MADE_WITH.model_dump_json())
    np.savez(place, allow_pickle=False, **sound)
    assert len(load_representations(place)) == 2
    for name, value, said in (
        ("representations", rows[0, :2], r"2 names and 2 digests for an array of shape \(2,\)"),
        ("digests", np.array(["c", "d", "e"]), "2 names and 3 digests"),
        ("names", np.array([1, 2]), "is not text"),
        ("names", np.array([{}, {}], dtype=object), "representations file"),  # pickled
        ("representations", np.array([[1.0], [np.nan]]), "not finite"),
        ("made_with", np.array("[" * 100_000), "not readable"),
    ):
        np.savez(place, **(sound | {name: value}))
        raised(UsageError, said, load_representations, place)
    # archives that claim more than they hold
    np.savez_compressed(place, **sound | {"representations": np.zeros((2, 1 << 20))})
    raised(UsageError, "compressed", load_representations, place)
    with zipfile.ZipFile(place, "w") as archive, archive.open("representations.npy", "w") as header:
        np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**9)})
    raised(UsageError, "not readable", load_representations, place)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("representations.npy", TORN_NPY)
    raised(UsageError, "not readable", load_representations, place)
    place.unlink()
    os.mkfifo(place)
    for read_or_write in (load_representations, Saver):
        raised(UsageError, "is a folder, device or pipe", read_or_write, place)
