"""The sealed threshold profile: read it, check it, seal it, and compare how strict two of them are."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from . import DATA, MOST_BYTES, Texts, read_bytes
from .ends import End
from .records import Frozen, HintedError, first_fault, refuse_version, unique_keys
from .statistics import DECIDING, LOOKS_ALPHA, SHARPER, STATISTICS, Bounds, Statistic

SCHEMA_VERSION = 1
Named = tuple[tuple[str, str], ...]
"""names, each with what is said of it"""
DEFAULT = DATA / "default-4.json"
PACKAGED = {"default": DEFAULT, "default-4": DEFAULT}
"""Profiles that ship with the package, by the name that `--thresholds` takes."""

PREPROCESSING_RULE = (
    "each model's own, from its contract, a sidecar or an option; what had to be assumed, or is not what the contract "
    "says, never passes"
)


class ProfileError(HintedError):
    """A profile that cannot be used."""


class Threshold(Frozen):
    """A threshold, which a confidence bound must exceed for PASS, and the gap around it."""

    minimum: float = Field(ge=0)
    highest_without: float
    """largest value of a set without the indication (over random subsets of 50 images)"""
    highest_without_set: str
    lowest_with: float
    """smallest value of a set with the indication"""
    lowest_with_set: str


class Nearest(Frozen):
    """A set without the label, or a trap, with the statistic that turns it away."""

    set: str
    statistic: Statistic
    factor: float
    """by which it lies below the least of the passing sets"""


LEAST_OF_A_RATE = 5  # checkpoints


class Rate(Frozen):
    """The rate of false PASS in one population of checkpoints without the label."""

    of: str
    n: int
    """checkpoints"""
    n_wrong: int
    """of which a set passed when the checkpoint was left out"""
    upper: float
    """one-sided 95 % Clopper–Pearson bound, had the rule been fixed before these sets were seen; rounded up"""


class Trained(Frozen):
    """The judgement of one kind of training."""

    training: str
    n: int
    """sets"""
    n_passing: int
    otherwise: Texts
    """those that are judged otherwise than most of their kind"""


class TensorFit(Frozen):
    """The separation of the sets by one tensor, for a comparison with the one that the profile is for."""

    tensor: str
    n_with: int
    n_without: int
    n_passing: int
    """sets with the label that pass"""
    auroc: float | None
    """of the joint rule; None where no thresholds could be fitted"""
    left_out_false_pass: int
    left_out_false_warn: int
    gap: float | None
    """the least factor by which a set without the label, or a trap, lies below those with it"""
    fault: str = ""
    """why no thresholds could be fitted"""


class Calibration(Frozen):
    """The basis of the thresholds."""

    command: str
    """what regenerates the profile"""
    table: str
    table_digest: str
    date: str = ""
    """UTC day of the latest measurement in the table"""
    suite: str = ""
    suite_digest: str = ""
    images: str = ""
    """what the sets were measured on"""
    labels: str = ""
    """what it means that a set is with or without"""
    spread: str = ""
    """what the sets' lowest and highest values are"""
    rule: str
    few: str = ""
    """what the small number of checkpoints means; empty where there are many"""
    n_sets: int
    n_checkpoints: int
    with_indication: Texts
    without_indication: Texts
    n_with_checkpoints: int = 0
    n_without_checkpoints: int = 0
    missed: Texts = ()
    """sets with the label that the thresholds do not pass"""
    hard_cases: Named = ()
    """(set known to be misjudged by outlier features, what the thresholds say of it)"""
    unlabelled_passing: Texts = ()
    """sets without a label that pass: no part of any rate"""
    excluded: Named
    """(set, why it was left out of the fit)"""
    missing: Named = ()
    """(model of the suite that could not be measured, why); not empty = the calibration is not complete"""
    left_out_false_pass: Texts
    """sets without the indication that would PASS if their checkpoint were left out of the fit"""
    left_out_false_warn: Texts
    """sets with the indication that would WARN if their checkpoint were left out of the fit"""
    false_pass_upper: float
    """one-sided 95 % Clopper–Pearson bound of the false-PASS rate over checkpoints, each left out in turn"""
    false_warn_upper: float
    not_left_out: Texts = ()
    """checkpoints without which nothing can be fitted; they count in no rate"""
    family_out: Named
    """(group left out whole, what the fit to the others says of it)"""
    tensors: tuple[TensorFit, ...] = ()
    """the tensors that were compared; empty where there was one"""
    n_traps: int = 0
    """simulated and derived sets that must not pass, and sets that are not evidence"""
    nearest: tuple[Nearest, ...] = ()
    """the sets without the label and the traps that lie nearest to those with it, the nearest first"""
    rates: tuple[Rate, ...] = ()
    by_training: tuple[Trained, ...] = ()

    @property
    def shown_rates(self) -> list[Rate]:
        """Return the rates of five checkpoints or more, since those of fewer say nothing."""
        return [rate for rate in self.rates if rate.n >= LEAST_OF_A_RATE]


class Profile(Frozen):
    """The thresholds for `judge`, which hold only for the statistic version, tensors and widths named here."""

    schema_version: int = SCHEMA_VERSION
    id: str
    statistic_version: int
    definitions: dict[Statistic, str] = Field(default_factory=dict)
    tensor: str = "representation"
    """which tensor of a model's contract it is for"""
    tensor_rules: Texts
    pools: Texts
    ends: tuple[End, ...]
    """what the representation may end in; no set with the indication ended otherwise"""
    min_features: int
    max_features: int
    min_images: int = Field(ge=2)
    """least number of varied images"""
    alpha: float = Field(gt=0, lt=1)
    """error rate of the deciding confidence bounds"""
    bounds: Bounds
    preprocessing: str = PREPROCESSING_RULE
    edited: Literal[""] = ""
    """a profile that was changed after the fit is not accepted"""
    thresholds: dict[Statistic, Threshold]
    """of the statistics that decide; the others are context"""
    calibration: Calibration
    limits: Texts
    digest: str = ""

    @property
    def deciding(self) -> tuple[Statistic, ...]:
        """Return the deciding statistics, in order of `STATISTICS`."""
        return tuple(name for name in STATISTICS if name in self.thresholds)

    def minimum_of(self, name: Statistic) -> float:
        """Return the threshold of a deciding statistic, which its whole interval must exceed."""
        return self.thresholds[name].minimum


def digest_of(profile: Profile) -> str:
    """Return the profile's `sha256:` digest, of the canonical JSON without the digest."""
    content = profile.model_dump(mode="json", exclude={"digest"})
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def seal(profile: Profile) -> Profile:
    """Return the profile with its digest."""
    return profile.model_copy(update={"digest": digest_of(profile)})


def to_json(profile: Profile) -> str:
    """Return the profile as a file's text."""
    return json.dumps(profile.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load(spec: str | Path | None = None) -> Profile:
    """Read and validate a profile.

    Args:
        spec: a profile file or the name of a packaged profile (PACKAGED), which comes before a file of that name; None
            = the default.

    Raises:
        ProfileError: unreadable, not a profile, of another schema version, incomplete, edited by hand without a new
            seal, or with a packaged profile's id but other content.
    """
    spec = spec or "default"
    path = PACKAGED.get(str(spec), Path(spec))
    is_packaged = path in PACKAGED.values()
    name = path.name if is_packaged else str(path)
    try:
        text = read_bytes(path, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", fault)
        raise ProfileError(f"{name}: threshold profile cannot be read ({why})") from fault
    try:
        raw = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as fault:
        raise ProfileError(f"{name}: threshold profile is not JSON (line {fault.lineno}: {fault.msg})") from fault
    except ValueError as fault:  # a key that occurs twice, an integer of thousands of digits
        raise ProfileError(f"{name}: threshold profile is not JSON ({fault})") from fault
    return checked(raw, name, is_packaged=is_packaged)


def checked(content: object, name: str, *, is_packaged: bool = False) -> Profile:
    """Return a profile that can judge. Raises ProfileError as `load` does, with `name` in its message."""
    refuse_version(content, SCHEMA_VERSION, name, ProfileError, "")
    try:
        profile = Profile.model_validate(content)
    except ValidationError as fault:
        raise ProfileError(f"{name}: {first_fault(fault)}") from fault
    if wrong := wrong_statistics(profile):
        raise ProfileError(f"{name}: {wrong}")
    if profile.digest != digest_of(profile):
        raise ProfileError(f"{name}: digest does not match the content; the profile was changed after it was sealed")
    if profile.id in PACKAGED and not is_packaged and profile not in packaged():
        raise ProfileError(
            f"{name}: id is {profile.id}, but the content is not that of the packaged profile; "
            "another profile needs another id (robustcheck calibrate --id NAME)"
        )
    return profile


def wrong_statistics(profile: Profile) -> str:
    """Return why a profile's statistics allow no verdict, "" where they allow one."""
    if profile.bounds == "looks" and profile.alpha != LOOKS_ALPHA:
        return f"alpha is {profile.alpha:g}; bounds 'looks' are made for {LOOKS_ALPHA:g}"
    if profile.thresholds.keys() == set(DECIDING):
        return ""
    return f"thresholds are of {', '.join(profile.deciding) or 'nothing'}; a profile decides by {', '.join(DECIDING)}"


@cache
def packaged() -> tuple[Profile, ...]:
    """Return the profiles of the package."""
    return tuple(load(path) for path in dict.fromkeys(PACKAGED.values()))


def looser_than(profile: Profile, other: Profile) -> Texts:
    """List in a few words each the ways in which a profile lets models pass that another one does not."""
    out = []
    for name in other.deciding:
        ours = profile.minimum_of(name)
        theirs = other.minimum_of(name)
        if ours < theirs:
            out.append(f"{name} {ours:g} below {theirs:g}")
    if profile.min_images < other.min_images:
        out.append(f"{profile.min_images} images instead of {other.min_images}")
    if profile.alpha > other.alpha:
        out.append(f"error rate of the bounds {profile.alpha:g} instead of {other.alpha:g}")
    if SHARPER.index(profile.bounds) > SHARPER.index(other.bounds):
        out.append(f"bounds {profile.bounds!r} instead of {other.bounds!r}")
    for field in ("tensor_rules", "pools", "ends"):
        more = set(getattr(profile, field)) - set(getattr(other, field))
        if more:
            out.append(f"{field} also {', '.join(sorted(map(str, more)))}")
    if profile.min_features < other.min_features or profile.max_features > other.max_features:
        out.append(
            f"{profile.min_features} to {profile.max_features} features instead of {other.min_features} to "
            f"{other.max_features}"
        )
    return tuple(out)
