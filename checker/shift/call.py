"""What a call of `robustcheck shift` names: labelled image sets, class maps, and an earlier report of the model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.report import Report, read_one
from robustcheck_onnx.checker.storage.places import Place, Url, parse_place
from robustcheck_onnx.checker.text import quoted

from .records import Judged
from .robustness import ALIASES

NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.\-]*)=(.+)", re.S)


class Spec(NamedTuple):
    """An image set as the user names it."""

    name: str
    place: Place
    shift: str | None
    """which known set it was said to be: imagenet1k, one of published.SHIFTS, or None"""


def parse_spec(text: str, option: str, what: str = "a labelled image set") -> Spec:
    """`[NAME=]PATH` → name, path, and which known set the name means; without a name, the path's last part.

    A path that exists is a path, whatever signs it has. Raises UsageError for an empty path.
    """
    named = None if Path(text).exists() else NAMED.fullmatch(text)
    name, path = (named[1], named[2]) if named else ("", text)
    if not path.strip():
        raise UsageError(f"{option} is {text!r}; it must be {what}, [NAME=]PATH", f"{option} FOLDER")
    place = parse_place(path)
    if not named:
        if isinstance(place, Url):
            return Spec(PurePosixPath(str(place)).stem or str(place), place, None)
        full = place.expanduser().resolve()
        return Spec((full.name if full.is_dir() else full.stem) or path, place, None)
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    return Spec(name, place, next((shift for shift, names in ALIASES.items() if key in names), None))


class Call(NamedTuple):
    """The image sets of a call, and the class map of each labelled one by name ("" = of those without an own one)."""

    inside: Spec
    shifted: list[Spec]
    maps: dict[str, str]
    targets: list[Spec]


def parse_call(
    inside: str, shifted: Sequence[str], classes: Sequence[str], targets: Sequence[str] = (), *, alone: bool = False
) -> Call:
    """What a call names.

    A target may be one of the shifted sets: then its accuracy is both measured and predicted.

    alone: whether the in-distribution set may stand without a shifted and a target one.
    Raises UsageError: neither a shifted nor a target set where one is needed, one set twice, two sets of one name,
    two maps for one set, a map for none.
    """
    first = parse_spec(inside, "--in")
    others = [parse_spec(text, "--shifted") for text in shifted]
    unlabelled = [parse_spec(text, "--target", "an image set") for text in targets]
    if not others and not unlabelled and not alone:
        raise UsageError(
            "--shifted is missing; at least one shifted set is needed, or a --target",
            "--in photos/ --shifted sketches/",
        )
    _refuse_same_place((first, *others), "--in photos/ --shifted sketches/")
    _refuse_same_place((first, *unlabelled), "--in photos/ --target new-photos/")
    own = [
        spec for spec in unlabelled if (same_place(spec), spec.name) not in {(same_place(o), o.name) for o in others}
    ]
    names = Counter(spec.name for spec in (first, *others))
    every = names + Counter(spec.name for spec in own)
    known = Counter(spec.shift for spec in (first, *others) if spec.shift)
    for what, counts in (("name", every), ("set", known)):
        if double := [each for each, count in counts.items() if count > 1]:
            raise UsageError(
                f"{what} of {counts[double[0]]} image sets is {double[0]!r}; it must be another one for each",
                "--shifted NAME=FOLDER",
            )
    maps: dict[str, str] = {}
    for text in classes:
        named = None if Path(text).exists() else NAMED.fullmatch(text)
        name, value = (named[1], named[2]) if named else ("", text)
        if name and name not in names:
            raise UsageError(
                f"--classes is {text!r}; {name} is no image set of this call ({', '.join(names)})",
                f"--classes {first.name}={quoted(value)}",
            )
        if name in maps:
            raise UsageError(
                f"--classes names a map for {name or 'all sets'} twice; one is enough", f"--classes {value}"
            )
        maps[name] = value
    return Call(first, others, maps, unlabelled)


def same_place(spec: Spec) -> Place:
    """The place of a set, one for all ways to write it."""
    return spec.place if isinstance(spec.place, Url) else spec.place.expanduser().resolve()


def _refuse_same_place(specs: Sequence[Spec], hint: str) -> None:
    places: set[Place] = set()
    for spec in specs:
        if same_place(spec) in places:
            raise UsageError(f"{spec.place}: image set is given twice; every set must be another one", hint)
        places.add(same_place(spec))


def judged_before(given: str | Path | Report, digest: str) -> Judged:
    """The verdict in the report of an earlier check of the same model, or in its file.

    Raises as `report.read_one`, and UsageError for a report about a model with another digest.
    """
    report = given if isinstance(given, Report) else read_one(Path(given))
    where = "report" if isinstance(given, Report) else f"report {given}"
    of_report = report.evidence.model.digest
    if of_report != digest:
        raise UsageError(
            f"{where}: model of the report has digest {of_report}; this model has {digest}, and they must be the same",
            "robustcheck model.onnx --images photos/ -o json=report.json",
        )
    return verdict_of(report, where)


def verdict_of(report: Report, where: str) -> Judged:
    """The verdict of a check and what it rests on; `where` says in words where the report comes from."""
    return Judged(
        verdict=report.verdict.verdict,
        reasons=tuple(reason.id for reason in report.verdict.reasons),
        profile=f"{report.profile.id} {report.profile.digest}",
        n_images=report.evidence.statistics.n_images,
        tensor=report.evidence.model.tensor,
        origin=where,
    )
