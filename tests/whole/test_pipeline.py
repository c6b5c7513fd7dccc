"""The whole check: what its options are, images on the edge, what the report holds."""

import inspect
import json
from pathlib import Path
from queue import Queue
from typing import get_type_hints

import pytest
from numpy.random import default_rng
from PIL import Image

import robustcheck_onnx as rc
from robustcheck_onnx import Progress, Report, check
from robustcheck_onnx.checker.cli.options import ROWS, Settings
from robustcheck_onnx.checker.cli.verbs import make, questions
from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.evidence import Options, RunOptions
from robustcheck_onnx.checker.images.source import Item, Skipped, open_images
from robustcheck_onnx.checker.measure import run as measure
from robustcheck_onnx.checker.measure.job import Prepared
from robustcheck_onnx.checker.measure.run import settle
from robustcheck_onnx.checker.report.record import to_json
from robustcheck_onnx.checker.runtime.runner import TRIED
from robustcheck_onnx.checker.statistics.definitions import FIRST_LOOK
from robustcheck_onnx.checker.text import as_json
from robustcheck_onnx.checker.verdict import rule
from robustcheck_onnx.thresholds import profile
from support import PATIENCE_S, Capture, Fields, Patch, Place, but, documents, lookup, normal, raised
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
    prepare_item, open_sessions = measure.prepare_item, measure.open_sessions

    def prepared(item: Item, inputs: measure.Inputs) -> Prepared | Skipped:
        ready.put(item.name)
        return prepare_item(item, inputs)

    def opened(inputs: measure.Inputs) -> measure.Opened:
        names = {ready.get(timeout=PATIENCE_S) for _ in range(measure.AHEAD)}  # raises where nobody decodes meanwhile
        # the probe took some out of the window already, and two threads decode: later ones may be among them
        assert names <= set(inputs.source.entries[: measure.AHEAD + TRIED].names())
        return open_sessions(inputs)

    monkeypatch.setattr(measure, "prepare_item", prepared)
    monkeypatch.setattr("robustcheck_onnx.checker.measure.run.open_sessions", opened)
    n_images = check(lookup_pass[0], images=lookup_pass[1], thresholds=never_decided()).evidence.statistics.n_images
    assert (n_images, ready.qsize()) == (80, 80 - measure.AHEAD)  # each is decoded once, those of the probe too


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
    # its digest would say that the packaged thresholds had judged
    for other, said in ((changed, "digest does not match the"), (profile.seal(but(changed, alpha=0.01)), "alpha is 0")):
        raised(UsageError, said, check, model, images=photos, thresholds=other)
    loose = profile.seal(changed)  # the default's id, other content
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


def test_the_keywords_are_the_record() -> None:
    given, fields = get_type_hints(RunOptions), get_type_hints(Options)
    assert given.keys() | {"images"} == Options.model_fields.keys()
    for name, type_ in given.items():
        assert type_ == (str | Path | None if name == "preprocess" else fields[name]), name


def test_keywords_become_the_record() -> None:
    options = Options.of({"images": Path("photos"), "seed": 3}, max_images=64)
    assert options == Options(images="photos", seed=3, max_images=64) == Options.of(options.given)
    assert Options.of({"max_images": None}, max_images=64).max_images is None
    raised(TypeError, "argument 'imagess'; options are images, tensor, pool", Options.of, {"imagess": "photos"})


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
        raised(TypeError, "'sead'", function, "none.onnx", sead=1)
    raised(TypeError, "images", rc.measure_shift, "none.onnx", "photos", ["sketches"], images="other")


def test_settings_and_verbs_have_the_records_defaults() -> None:
    """`calibrate` names the tensor to fit, not the one to measure."""
    assert (Settings().options, set(Options.model_fields) - set(ROWS)) == (Options(), set())
    others: dict[str, Fields] = {
        "check": {}, "compare": {"max_images": 1000}, "scan": {"max_images": 64}, "directions": {"max_images": 300},
        "shift": {}, "concepts": {}, "calibrate": {"tensor": "auto"},
    }  # fmt: skip
    for verb, other in others.items():
        given = inspect.signature(getattr(make if verb == "calibrate" else questions, verb)).parameters.items()
        shared = {name: parameter.default for name, parameter in given if name in Options.model_fields}
        assert {"device", "seed", "max_images", "max_bad", "batch_size"} <= shared.keys()
        assert shared.items() <= (dict(Options()) | other).items(), verb
