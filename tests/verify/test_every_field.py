"""Each leaf of a PASS report is changed, one at a time, with a digest that is right: `verify` with a rerun must see it.

Each leaf becomes other values of its own type, other names of its enumeration in the schema, and its equal of another
type (true for 1, 1.0 for 1); each list loses and gains an item, each object a key. The second run is made once; a
changed setting, with which the second run itself is made, is measured with. `make test` asks the functions that
`verify` asks, about two values of a leaf and the first item of a list; `make test-long` asks `verify`, about all.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx.checker.core.evidence import Int8Sums
from robustcheck_onnx.checker.core.verdict import gate, notes
from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.report.check import Report, read
from robustcheck_onnx.checker.report.reading import edits
from robustcheck_onnx.checker.report.record import result_digest_of, sealed, to_json
from robustcheck_onnx.checker.trust.verify import checks
from robustcheck_onnx.checker.trust.verify.run import verify
from robustcheck_onnx.checker.trust.verify.second_run import disagreements, measure_again, tolerance_of
from support import Fields, Patch, Place, but, read_json, robustcheck
from support.keys import changed

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own

BY_WHEN = "when and how fast it was measured: no second run can know; a signature covers it"
BY_WHOM = "what the caller of the check let through: it changes no PASS, and a report from Python has none"
BY_PLACE = "under which name the model's file lay there; its bytes are compared"
NOT_SEEN = dict.fromkeys(("time", "time.started", "time.wall_s", "time.images_per_s"), BY_WHEN)
NOT_SEEN |= dict.fromkeys(("gate", "gate.fail_on", "gate.accept"), BY_WHOM) | {"evidence.model.file": BY_PLACE}
"""Fields of which another value, true to the schema, is not seen, and why"""
TRUE_TOO = {"binding.settings.max_bad", "binding.settings.batch_size"}
"""Settings with which a check gives this very report: that is what the second run, made with them, shows"""
MOVED = 0.002  # of a number, or of 1 where it is smaller: 20 times what two runs may differ by

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, lookup_pass: Place, passed: Report) -> Path:
    """A model with a planted outlier feature, photos, and the report as the command makes it: PASS."""
    folder = tmp_path_factory.mktemp("every")
    for name, path in zip(("model.onnx", "photos"), lookup_pass, strict=True):
        (folder / name).symlink_to(path)
    gated = but(passed, gate=gate.decide(passed.verdict, "model.onnx", today=date(2026, 1, 1)))
    (folder / "r.json").write_text(to_json(sealed(gated)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def document(place: Path) -> Fields:
    """The report's JSON; no test changes it."""
    read: Fields = read_json(place / "r.json")
    return read


@pytest.fixture(scope="module")
def second(place: Path) -> Report:
    ((report, _),) = read(place / "r.json")
    second = measure_again(report, place / "model.onnx", str(place / "photos"))
    assert isinstance(second, Report)
    return second


# ----------------------------------------------------------------------------------------------- the changes


def name_of(path: Path_) -> str:
    return ".".join(str(part) for part in path)


@functools.cache
def names() -> dict[str | int, list[Any]]:
    """The names that the schema knows for a field, by the field's own name."""
    schema = Report.model_json_schema(mode="serialization")
    found: dict[str | int, list[Any]] = {}
    for record in (schema, *schema["$defs"].values()):
        for key, field in record.get("properties", {}).items():
            for each in (field, *field.get("anyOf", ())):
                found.setdefault(key, []).extend(each.get("enum", [each.get("const")]))
    return found


def others(value: Any, path: Path_) -> Iterator[Any]:
    """Values that a leaf could have instead."""
    yield from (each for each in names().get(path[-1], []) if each not in (value, None))
    if isinstance(value, bool):
        yield from (not value, int(value))
    elif isinstance(value, int):
        yield from (value + 1, float(value))
        yield from [bool(value)] * (value in (0, 1))
    elif isinstance(value, float):
        yield value + MOVED * max(1.0, abs(value))
        yield from [int(value)] * value.is_integer()
    elif isinstance(value, str):
        yield from (value + "x", "" if value else "y")
    else:
        yield from ("x", 1, 0.5, True, {})
    if value is not None:
        yield None


def changes(value: Any, path: Path_ = (), *, every: bool) -> Iterator[tuple[str, Path_, Any]]:
    """How and where it is changed, and what it is then: two of a leaf, the first item of a list, or `every` one."""
    if not isinstance(value, dict | list):
        for other in itertools.islice(others(value, path), None if every else 2):
            yield f"{value!r} became {other!r}", path, other
        return
    keys: Iterable[Any] = value
    if isinstance(value, dict):
        for key in value:
            yield f"without {key}", path, {name: part for name, part in value.items() if name != key}
        yield "with a key more", path, value | {"x": next(iter(value.values()), "x")}
    else:
        if value:
            yield "an item less", path, value[:-1]
        yield "an item more", path, [*value, value[-1] if value else "x"]
        keys = range(len(value) if every else min(1, len(value)))
    for key in keys:
        for what, where, other in changes(value[key], (*path, key), every=every):
            made = value.copy()
            made[key] = other
            yield what, where, made
    if path:
        yield "null", path, None


def forged(document: Fields, made: Fields) -> Fields:
    """The document as it was changed, with a digest that is right, unless that is what was changed."""
    binding = made.get("binding")
    if isinstance(binding, dict) and binding.get("result_digest") == document["binding"]["result_digest"]:
        return made | {"binding": binding | {"result_digest": result_digest_of(made)}}
    return made


# ------------------------------------------------------------------------------------------------- the tests

Whole = Callable[[Fields, Report | None], bool]


@pytest.fixture
def whole(place: Path, monkeypatch: Patch) -> Whole:
    """Whether `verify` refuses a forged report, or says that it does not hold; for None it makes the second run."""

    def sees(document: Fields, second: Report | None) -> bool:
        (place / "forged.json").write_text(json.dumps(document))
        with monkeypatch.context() as patched:
            if second is not None:
                patched.setattr(checks, "measure_again", lambda *_, **__: second)
            try:
                code = int(verify(place / "forged.json", place / "model.onnx", images=place / "photos").exit_code)
            except RobustcheckError as fault:
                code = fault.exit_code
        return {0: False, 2: True, 3: True}[code]

    return sees


def sees_in_parts(place: Path, second: Report, document: Fields, *, elsewhere: bool = False) -> bool:
    """As `whole`, but by the parts of `verify` that neither model nor images are opened for."""
    (place / "forged.json").write_text(json.dumps(document))
    try:
        ((report, raw),) = read(place / "forged.json")
    except RobustcheckError as fault:
        return fault.exit_code in (2, 3)
    tolerance = tolerance_of(second, elsewhere=elsewhere)
    return bool(edits(report, raw) or disagreements(report, second, tolerance, elsewhere=elsewhere))


def test_the_report_itself_holds(document: Fields, second: Report, whole: Whole) -> None:
    assert document["verdict"]["verdict"] == "PASS"
    assert document["gate"] is not None
    assert (whole(document, second), whole(document, None)) == (False, False)


def test_a_report_of_another_cpu_whose_int8_sums_saturate_agrees_elsewhere(second: Report) -> None:
    made = []
    for plain in (0.5059, 1):
        execution: Fields = {"evidence__execution__int8_sums": Int8Sums(plain=plain, exact=1)}
        report = but(second, evidence__model__saturating_pairs=0.02, **execution)
        made.append(but(report, notes=notes.notes_of(report.evidence, report.profile)))
    there, here = made
    assert there.notes != here.notes
    assert disagreements(there, here, elsewhere=True) == ()
    assert disagreements(there, here) != ()


def shortened(report: Report, n: int) -> Report:
    """A report with `n` records of each of its long lists; reading it takes a third of the time."""
    gallery = report.evidence.gallery
    assert gallery is not None
    return sealed(but(report, evidence__gallery__shown=gallery.shown[:n], reference=report.reference[:n]))


def is_setting(path: Path_) -> bool:
    """Whether a second run is made with it: that a changed one is seen takes such a run."""
    return path[:2] == ("binding", "settings")


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_changed_leaf_is_seen(place: Path, second: Report, whole: Whole, *, every: bool) -> None:
    ((report, _),), n = read(place / "r.json"), 1 + every
    again, document = shortened(second, n), json.loads(to_json(shortened(report, n)))
    unseen, tried = set[str](), set[str]()
    for what, path, change in changes(document, every=every):
        tried.add(name_of(path[:1]))
        made = forged(document, change)
        if not is_setting(path) and not (whole(made, again) if every else sees_in_parts(place, again, made)):
            unseen.add(name_of(path))
            assert not what.startswith(("without", "an item", "with a")), (path, what)  # only other values are not
    assert tried == {"", *document}
    assert unseen == NOT_SEEN.keys()


@pytest.mark.long
def test_every_changed_setting_is_seen_by_a_run_with_it(document: Fields, whole: Whole) -> None:
    settings = [(path, change) for _, path, change in changes(document, every=True) if is_setting(path)]
    assert {name_of(path) for path, change in settings if not whole(forged(document, change), None)} == TRUE_TOO


# ------------------------------------------------------------------------------------ what is said to be elsewhere


def test_reports_never_loosen_the_tolerance(place: Path, document: Fields, second: Report, monkeypatch: Patch) -> None:
    """Three digits more than two runs differ by: under another runtime's name they were let through."""
    elsewhere = document
    for where, value in {
        "evidence execution runtime": "0.9.0",
        "evidence execution device": "another processor",
        "evidence execution threads": 96,
        "evidence images source": "elsewhere/imagenet",
        "binding versions numpy": "1.0",
    }.items():
        elsewhere = changed(elsewhere, where, value)
    kurtosis = "evidence statistics centred_kurtosis"
    for claimed, factor, accepted, seen in (
        (document, 1 + 0.9e-4, False, False), (document, 1 + 1.2e-4, False, True), (elsewhere, 1.004, False, True),
        (elsewhere, 1.004, True, False), (elsewhere, 1.006, True, True), (elsewhere, 1, True, False),
    ):  # fmt: skip
        made = changed(claimed, kurtosis, document["evidence"]["statistics"]["centred_kurtosis"] * factor)
        assert sees_in_parts(place, second, forged(document, made), elsewhere=accepted) == seen, factor
    monkeypatch.setattr(checks, "measure_again", lambda *_, **__: second)
    files = (place / "forged.json", place / "model.onnx")
    files[0].write_text(json.dumps(forged(document, elsewhere)))
    (finding,) = (each for each in verify(*files, images=place / "photos").findings if each.check == "rerun")
    assert "; --elsewhere accepts that, if you know that the report was made on another machine" in finding.seen
    assert robustcheck("verify", *files, "--images", place / "photos", "--elsewhere", "-qq") == 0


def test_elsewhere_loosens_nothing_but_the_environment(place: Path, document: Fields, second: Report) -> None:
    """Least of all `precision`, by which the tolerance goes: it is that of the model here."""
    for where, value in {
        "claim": "It is robust.", "reference": [], "evidence model synthetic": "",
        "evidence execution precision": "int8", "evidence images n_available": 50_000,
        "evidence statistics spread": 0.9, "binding settings seed": 1,
    }.items():  # fmt: skip
        assert sees_in_parts(place, second, forged(document, changed(document, where, value)), elsewhere=True), where
