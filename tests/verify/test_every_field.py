"""Each leaf of a PASS report is changed, one at a time, with a digest that is right: `verify` with a rerun must see it.

Each leaf becomes other values of its own type, other names of its enumeration in the schema, and its equal of another
type (true for 1, 1.0 for 1); each list loses and gains an item, each object a key. The second run is made once; a
changed setting, with which the second run itself is made, is measured with. `make test` asks the functions that
`verify` asks, about two values of a leaf and the first item of a list; `make test-long` asks `verify`, about all.
"""

import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from robustcheck_onnx import check
from robustcheck_onnx.checker.errors import RobustcheckError
from robustcheck_onnx.checker.report.reader import edits, read
from robustcheck_onnx.checker.report.record import Report, result_digest_of, sealed, to_json
from robustcheck_onnx.checker.verdict import gate
from robustcheck_onnx.checker.verify import checks
from robustcheck_onnx.checker.verify.checks import disagreements, measure_again, tolerance_of
from robustcheck_onnx.checker.verify.run import verify
from support import Fields, Patch, but, lookup, read_json, robustcheck

pytestmark = pytest.mark.usefixtures("capsys")  # the command mends its process's streams: these are the test's own

BY_WHEN = "when and how fast it was measured: no second run can know; a signature covers it"
BY_WHOM = "what the caller of the check let through: it changes no PASS, and a report from Python has none"
BY_PLACE = "under which name the model's file lay there; its bytes are compared"
NOT_SEEN = {
    "time": BY_WHEN,
    "time.started": BY_WHEN,
    "time.wall_s": BY_WHEN,
    "time.images_per_s": BY_WHEN,
    "gate": BY_WHOM,
    "gate.fail_on": BY_WHOM,
    "gate.accept": BY_WHOM,
    "evidence.model.file": BY_PLACE,
}
"""Fields of which another value, true to the schema, is not seen, and why"""
TRUE_TOO = {"binding.settings.max_bad", "binding.settings.batch_size"}
"""Settings with which a check gives this very report: that is what the second run, made with them, shows"""
MOVED = 0.002  # of a number, or of 1 where it is smaller: 20 times what two runs may differ by

Path_ = tuple[str | int, ...]
Document = Fields
Change = Callable[[Document], object]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a planted outlier feature, 64 photos, and the report as the command makes it: PASS."""
    folder = tmp_path_factory.mktemp("every")
    lookup.write_lookup_images(folder / "photos", 64)
    lookup.write_lookup_model(folder / "model.onnx", lookup.passing_rows(64, 400))
    report = check(folder / "model.onnx", images=folder / "photos")
    gated = but(report, gate=gate.decide(report.verdict, "model.onnx", today=date(2026, 1, 1)))
    (folder / "r.json").write_text(to_json(sealed(gated)), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def document(place: Path) -> Document:
    """The report's JSON; no test changes it."""
    read: Document = read_json(place / "r.json")
    return read


@pytest.fixture(scope="module")
def second(place: Path) -> Report:
    ((report, _),) = read(place / "r.json")
    return measure_again(report, place / "model.onnx", str(place / "photos"))


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
                found.setdefault(key, []).extend(each.get("enum", [each["const"]] if "const" in each else []))
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


def at(document: Any, path: Path_) -> Any:
    for part in path:
        document = document[part]
    return document


def setting(path: Path_, value: Any) -> Change:
    return lambda whole: at(whole, path[:-1]).__setitem__(path[-1], value)


def changes(document: Any, path: Path_ = (), *, every: bool) -> Iterator[tuple[str, Path_, Change]]:
    """Changes of leaves, lists and objects, and where: two of a leaf, in the first item of a list, or `every` one."""
    value = at(document, path)
    if isinstance(value, dict):
        for key in list(value):
            yield f"without {key}", path, lambda whole, key=key: at(whole, path).pop(key)  # type: ignore[misc]
            yield from changes(document, (*path, key), every=every)
        yield "with a key more", path, lambda whole: at(whole, path).update(x=next(iter(value.values()), "x"))
    elif isinstance(value, list):
        if value:
            yield "an item less", path, lambda whole: at(whole, path).pop()
        yield "an item more", path, setting(path, [*value, value[-1] if value else "x"])
        for index in range(len(value) if every else min(1, len(value))):
            yield from changes(document, (*path, index), every=every)
    else:
        for other in itertools.islice(others(value, path), None if every else 2):
            yield f"{value!r} became {other!r}", path, setting(path, other)
    if path and isinstance(value, dict | list):
        yield "null", path, setting(path, None)


def forged(document: Document, change: Change) -> Document:
    """The document with a change, and a digest that is right, unless that is what was changed."""
    made: Document = json.loads(json.dumps(document))  # a copy, ten times as fast as copy.deepcopy
    stated = document["binding"]["result_digest"]
    change(made)
    if isinstance(made.get("binding"), dict) and made["binding"].get("result_digest") == stated:
        made["binding"]["result_digest"] = result_digest_of(made)
    return made


# ------------------------------------------------------------------------------------------------- the tests

Sees = Callable[[Path_, Document], bool]
Whole = Callable[[Document, Report | None], bool]


@pytest.fixture
def whole(place: Path, monkeypatch: Patch) -> Whole:
    """Whether `verify` refuses a forged report, or says that it does not hold; for None it makes the second run."""

    def sees(document: Document, second: Report | None) -> bool:
        (place / "forged.json").write_text(json.dumps(document))
        with monkeypatch.context() as changed:
            if second is not None:
                changed.setattr(checks, "measure_again", lambda *_, **__: second)
            try:
                code = int(verify(place / "forged.json", place / "model.onnx", images=place / "photos").exit_code)
            except RobustcheckError as fault:
                code = fault.exit_code
        return {0: False, 2: True, 3: True}[code]

    return sees


def sees_in_parts(place: Path, second: Report, document: Document, *, elsewhere: bool = False) -> bool:
    """As `whole`, but by the parts of `verify` that neither model nor images are opened for."""
    (place / "forged.json").write_text(json.dumps(document))
    try:
        ((report, raw),) = read(place / "forged.json")
    except RobustcheckError as fault:
        return fault.exit_code in (2, 3)
    tolerance = tolerance_of(second, elsewhere=elsewhere)
    return bool(edits(report, raw) or disagreements(report, second, tolerance, elsewhere=elsewhere))


def unseen(document: Document, sees: Sees, *, every: bool) -> set[str]:
    """Where a change is not seen; asserts that no part is left out, and that what is not seen are other values."""
    found: set[str] = set()
    tried: Counter[str] = Counter()
    for what, path, change in changes(document, every=every):
        tried[name_of(path[:1])] += 1
        if not sees(path, forged(document, change)):
            found.add(name_of(path))
            assert not what.startswith(("without", "an item", "with a")), (path, what)
    assert set(tried) == {"", *document}
    return found


def test_the_report_itself_holds(document: Document, second: Report, whole: Whole) -> None:
    assert document["verdict"]["verdict"] == "PASS"
    assert document["gate"] is not None
    assert not whole(document, second)
    assert not whole(document, None)


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
    again = shortened(second, n)

    def sees(path: Path_, made: Document) -> bool:
        return is_setting(path) or (whole(made, again) if every else sees_in_parts(place, again, made))

    assert unseen(json.loads(to_json(shortened(report, n))), sees, every=every) == NOT_SEEN.keys()


@pytest.mark.long
def test_every_changed_setting_is_seen_by_a_run_with_it(document: Document, whole: Whole) -> None:
    settings = [(path, change) for _, path, change in changes(document, every=True) if is_setting(path)]
    assert {name_of(path) for path, change in settings if not whole(forged(document, change), None)} == TRUE_TOO


def test_two_settings_are_seen_by_a_run_with_them(document: Document, whole: Whole) -> None:
    for name, value in (("seed", 1), ("max_images", 8)):
        assert whole(forged(document, setting(("binding", "settings", name), value)), None)


# ------------------------------------------------------------------------------------ what is said to be elsewhere


def claims_another_machine(whole: Document) -> None:
    whole["evidence"]["execution"] |= {"runtime": "0.9.0", "device": "another processor", "threads": 96}
    whole["evidence"]["images"]["source"] = "elsewhere/imagenet"
    whole["binding"]["versions"]["numpy"] = "1.0"


def moved(factor: float, *, elsewhere: bool = True) -> Change:
    def change(whole: Document) -> None:
        if elsewhere:
            claims_another_machine(whole)
        whole["evidence"]["statistics"]["centred_kurtosis"] *= factor

    return change


def test_a_report_never_loosens_the_tolerance_and_the_one_who_verifies_can(
    place: Path, document: Document, second: Report, monkeypatch: Patch
) -> None:
    """Three digits more than two runs differ by: under another runtime's name they were let through."""
    for change, elsewhere, seen in (
        (moved(1 + 0.9e-4, elsewhere=False), False, False),
        (moved(1 + 1.2e-4, elsewhere=False), False, True),
        (moved(1.004), False, True),
        (moved(1.004), True, False),
        (moved(1.006), True, True),
        (claims_another_machine, True, False),
    ):
        assert sees_in_parts(place, second, forged(document, change), elsewhere=elsewhere) == seen, change
    monkeypatch.setattr(checks, "measure_again", lambda *_, **__: second)
    files = (place / "forged.json", place / "model.onnx")
    files[0].write_text(json.dumps(forged(document, claims_another_machine)))
    (finding,) = (each for each in verify(*files, images=place / "photos").findings if each.check == "rerun")
    assert "; --elsewhere accepts that, if you know that the report was made on another machine" in finding.seen
    assert robustcheck("verify", *files, "--images", place / "photos", "--elsewhere", "-qq") == 0


def test_elsewhere_loosens_nothing_but_the_environment(place: Path, document: Document, second: Report) -> None:
    """Least of all `precision`, by which the tolerance goes: it is that of the model here."""
    for where, value in {
        "claim": "It is robust.",
        "reference": [],
        "evidence model synthetic": "",
        "evidence execution precision": "int8",
        "evidence images n_available": 50_000,
        "evidence statistics spread": 0.9,
        "binding settings seed": 1,
    }.items():
        made = forged(document, setting(tuple(where.split()), value))
        assert sees_in_parts(place, second, made, elsewhere=True), where
