"""Read a suite of models for a calibration: what each one is, and what is known of its robustness.

The file is TOML (docs/calibration.md). A label says whether robustness to natural distribution shifts was published or
measured for the model, never whether its representation shows the statistic: that is what calibration finds out.
"""

import difflib
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError

from . import DATA, MOST_BYTES, Texts, published, read_bytes, read_toml
from .published import IMAGENET, MEAN_SHIFTS, SHIFTS, effective_robustness
from .records import Frozen, HintedError, refuse_version

SCHEMA_VERSION = 1
PACKAGED = {"paper": DATA / "paper_suite.toml"}
"""Suites that ship with the package, by the name that `--suite` takes."""
SOURCES = ("open_clip", "timm", "torchvision", "transformers", "torch")  # as `robustcheck export` has them
GROUPS = (
    "zero_shot_clip",
    "finetuned_clip",
    "imagenet_finetuned_clip",
    "supervised",
    "in1k_only",
    "in1k_distilled",
    "in1k_ssl",
    "more_data",
    "self_supervised",
    "robust_intervention",
    "face",
    "reid",
    "untrained",
    "planted",
    "other",
)
"""The words of the published and the reference tables, and what only a suite has."""
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt")

Label = Literal["present", "absent", "unlabelled"]


class SuiteError(HintedError):
    """A suite that cannot be used."""


class LabelRule(Frozen):
    """The rule that turns mean effective robustness over V2, Sketch, R and A (percentage points) into a label."""

    present_from_pp: float = 20.0
    """at or above: present. Lowest published zero-shot CLIP encoder of 55 % ImageNet top-1 or more: +22.5"""
    absent_below_pp: float = 10.0
    """below: absent. Highest published model trained on ImageNet-1k only: +9.1. Between the two: unlabelled"""
    meaning: str = "robustness to natural distribution shifts was published or measured"


class SuiteEntry(Frozen):
    """A model of a suite, which is an export or an ONNX file, and what is known of it."""

    id: str = ""
    """unique; without it, made of source, name and weights, or of the model's file name"""
    model: str | None = None
    """a ready ONNX file, relative to the suite file; instead of source and name"""
    source: str | None = None
    name: str | None = None
    weights: str | None = None
    """the library's tag, or a checkpoint file relative to the suite file"""
    preprocessing: str | None = None
    """JSON file with the preprocessing, relative to the suite file"""
    head: str | None = None
    """source torch: name of the last linear layer"""
    random_weights: bool = False
    group: str
    checkpoint: str = ""
    """which checkpoint this is, where several entries share one; they are left out together. Without it, the id"""
    label: Label | None = None
    accuracies: dict[str, float] | None = None
    """top-1 fractions on imagenet1k and shifts; the label follows where V2, Sketch, R and A are all there"""
    published: str | None = None
    """the row of published accuracies, `library:name`, with the name as the library writes it"""
    hard_case: bool = False
    """known to be misjudged by outlier features, in either direction"""
    note: str = ""


class SuiteFile(Frozen):
    """The schema 1 of a suite file."""

    schema_version: Literal[1]
    name: str = Field(min_length=1)
    about: str = ""
    labels: LabelRule = LabelRule()
    models: tuple[SuiteEntry, ...] = Field(min_length=1)


class Member(NamedTuple):
    """An entry with everything that follows from it."""

    id: str
    checkpoint: str
    entry: SuiteEntry
    label: Label
    effective_robustness_pp: float | None
    """mean over V2, Sketch, R and A, of its own accuracies or else of the published row; None when not known"""
    extrapolated: bool
    """whether the ImageNet accuracy is outside what the baselines were fitted on"""


class OpenedSuite(NamedTuple):
    """A suite read from a file."""

    suite: SuiteFile
    members: tuple[Member, ...]
    folder: Path
    """what paths are relative to"""
    digest: str
    """`sha256:` over the file"""


def open_suite(spec: str | Path) -> OpenedSuite:
    """Read and check a suite.

    Args:
        spec: a suite file, or the name of a packaged suite (PACKAGED).

    Raises:
        SuiteError: not readable, not TOML, of a newer schema, with an unknown key (the nearest one is named), an
            entry that is neither a file nor an export, two entries with one id, an unknown group, an accuracy that is
            not a fraction, a published row that does not exist, a label that contradicts the accuracies.
    """
    path = PACKAGED.get(str(spec), Path(spec))
    try:
        content = read_bytes(path, MOST_BYTES)
        raw = read_toml(content)
    except OSError as fault:
        near = difflib.get_close_matches(str(spec), PACKAGED, 1)
        hint = f"--suite {near[0]}" if near else f"packaged suites: {', '.join(PACKAGED)}"
        raise SuiteError(f"{spec}: suite cannot be read ({fault.strerror or fault}); a TOML file", hint) from fault
    except UnicodeDecodeError as fault:
        raise SuiteError(f"{path}: suite is not UTF-8 text; it must be a TOML file") from fault
    except (ValueError, RecursionError) as fault:
        raise SuiteError(f'{path}: suite is not TOML ({fault}); see the page "Calibrate your thresholds"') from fault
    refuse_version(raw, SCHEMA_VERSION, str(path), SuiteError, f"schema_version = {SCHEMA_VERSION}")
    try:
        suite = SuiteFile.model_validate(raw)
    except ValidationError as fault:
        raise SuiteError(*_message_of(path, fault)) from fault
    members = tuple(_member(path, entry, suite.labels) for entry in suite.models)
    counts = Counter(member.id for member in members)
    double = sorted(name for name, count in counts.items() if count > 1)
    if double:
        raise SuiteError(f"{path}: id {double[0]} occurs {counts[double[0]]} times; ids must differ", 'id = "…"')
    digest = hashlib.sha256(content).hexdigest()
    return OpenedSuite(suite, members, path.parent, f"sha256:{digest}")


def id_of(entry: SuiteEntry) -> str:
    """Return the entry's id, or a default one."""
    if entry.id:
        return entry.id
    if entry.model is not None:
        return Path(entry.model).stem
    name = f"{entry.source}:{entry.name}"
    if entry.weights:
        return f"{name}/{Path(entry.weights).name}"
    return f"{name}/random" if entry.random_weights else name


def label_from(mean_pp: float, rule: LabelRule) -> Label:
    """Return the label for a mean effective robustness.

    >>> [label_from(pp, LabelRule()) for pp in (34.9, 12.6, 0.1)]
    ['present', 'unlabelled', 'absent']
    """
    if mean_pp >= rule.present_from_pp:
        return "present"
    return "absent" if mean_pp < rule.absent_below_pp else "unlabelled"


def _member(path: Path, entry: SuiteEntry, rule: LabelRule) -> Member:
    name = id_of(entry)
    where = f"{path}: entry {name}"
    exported = entry.source is not None or entry.name is not None
    half_named = exported and None in (entry.source, entry.name)
    if (entry.model is not None) == exported or half_named:
        raise SuiteError(
            f"{where}: model is {entry.model!r}, source {entry.source!r}, name {entry.name!r}; "
            "it takes either an ONNX file, or source and name"
        )
    if entry.source is not None and entry.source not in SOURCES:
        raise SuiteError(*_choice(where, "source", entry.source, SOURCES))
    if entry.group not in GROUPS:
        raise SuiteError(*_choice(where, "group", entry.group, GROUPS))
    if "(" in name or not name.isprintable():
        raise SuiteError(f"{where}: id is {name!r}; it must be printable and have no parenthesis", 'id = "…"')
    mean_pp: float | None = None
    extrapolated = False
    if entry.published is not None:
        row = published_row(where, entry.published)
        mean_pp = row.mean_pp
        extrapolated = not row.extrapolated.isdisjoint(MEAN_SHIFTS)
    if entry.accuracies is not None:  # the entry's own count
        mean_pp, extrapolated = _mean(where, entry.accuracies)
    label = _label_of(entry, mean_pp, extrapolated, rule, where)
    return Member(name, entry.checkpoint or name, entry, label, mean_pp, extrapolated)


def _label_of(entry: SuiteEntry, mean_pp: float | None, extrapolated: bool, rule: LabelRule, where: str) -> Label:
    """Return an entry's label, which must not contradict its mean effective robustness."""
    label = entry.label
    if mean_pp is None:
        if label is None:
            raise SuiteError(
                f"{where}: label is missing, and no mean effective robustness is known; give a label, or accuracies on "
                f"imagenet1k and {', '.join(MEAN_SHIFTS)}",
                'label = "present", "absent" or "unlabelled"',
            )
        return label
    if extrapolated:
        return label or "unlabelled"
    follows = label_from(mean_pp, rule)
    if {label, follows} == {"present", "absent"}:
        limit = f"present is from {rule.present_from_pp:+g}"
        if label == "absent":
            limit = f"absent is below {rule.absent_below_pp:+g}"
        raise SuiteError(
            f"{where}: label is {label}, but mean effective robustness is {mean_pp:+.1f} percentage points; {limit}",
            "correct the label or the accuracies",
        )
    return label or follows


def published_row(where: str, key: str) -> published.Published:
    """Return the published row `library:name`, the most accurate of rows at several image sizes.

    Raises SuiteError with the nearest names when there is none.
    """
    library, _, name = key.partition(":")
    rows = [row for row in published.published() if (row.library, row.name) == (library, name)]
    if not rows:
        problem = f"{where}: published is {key!r}; no row of the published accuracies has that name"
        near = published.nearest(name)
        if near:
            raise SuiteError(f"{problem}, closest: {', '.join(near)}", f'published = "{near[0]}"')
        raise SuiteError(problem, "leave out published, and give accuracies")
    return max(rows, key=lambda row: row.accuracy.get(IMAGENET, 0.0))


def _mean(where: str, accuracies: Mapping[str, float]) -> tuple[float | None, bool]:
    names = (IMAGENET, *SHIFTS)
    for name, value in accuracies.items():
        if name not in names:
            raise SuiteError(*_choice(where, "accuracies", name, names))
        if not 0 < value < 1:
            raise SuiteError(f"{where}: accuracy on {name} is {value:g}; it must be a fraction between 0 and 1")
    if IMAGENET not in accuracies:
        raise SuiteError(f"{where}: accuracies lack {IMAGENET}; effective robustness is measured from it")
    if not set(MEAN_SHIFTS) <= set(accuracies):
        return None, False
    lines = published.baselines_of("timm")
    results = [effective_robustness(accuracies[IMAGENET], accuracies[s], lines[s]) for s in MEAN_SHIFTS]
    mean_pp = sum(float(result.points) for result in results) / len(results)
    return mean_pp, any(result.extrapolated for result in results)


def _choice(where: str, field: str, value: str, valid: Texts) -> tuple[str, str]:
    nearest, *_ = difflib.get_close_matches(value, valid, 1) or valid
    fault = f"{where}: {field} is {value!r}; it must be one of {', '.join(valid)}"
    return fault, f"{field} = {nearest!r}"


def _message_of(path: Path, fault: ValidationError) -> tuple[str, str]:
    """Return a line on the first fault of a suite file, and a hint, which is the nearest key for an unknown one."""
    first = fault.errors(include_url=False)[0]
    parts = first["loc"]
    place = ".".join(map(str, parts))
    if first["type"] == "extra_forbidden":
        parents: dict[int | str, type[Frozen]] = {"models": SuiteEntry, "labels": LabelRule}
        parent = parents[parts[0]] if len(parts) > 1 else SuiteFile
        fields = parent.model_fields
        near, *_ = difflib.get_close_matches(str(parts[-1]), fields, 1) or [""]
        rule = f"the closest is {near}" if near else f"known are {', '.join(fields)}"
        return f"{path}: key {place} is unknown; {rule}", near
    return f"{path}: {place or 'suite'}: {first['msg']}", 'the page "Calibrate your thresholds" shows every key'
