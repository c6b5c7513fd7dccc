"""The base of every record, and the sealed threshold profile."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import core_schema

from . import DATA, MOST_BYTES, read_bytes

ReprArgs = list[tuple[str, object]]  # what a record shows of itself: names and values
_PYDANTIC = {name for name in dir(BaseModel) if name[0] != "_"} - {"model_copy", "model_dump", "model_dump_json"}


class Frozen(BaseModel):
    """An immutable record. Unknown keys are errors, and numbers that are not finite are refused.

    JSON has no NaN; a value that could not be measured is None (null), never NaN.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __dir__(self) -> list[str]:
        """List the record's names without pydantic's own. Completion shows them."""
        return [name for name in super().__dir__() if name not in _PYDANTIC]


def is_version(stated: object, wanted: int) -> bool:
    """Return whether a document has this schema version. It is an integer, neither true nor 1.0.

    >>> is_version(1, 1), is_version(True, 1), is_version(1.0, 1)
    (True, False, False)
    """
    return type(stated) is int and stated == wanted


def first_fault(fault: ValidationError) -> str:
    """Write the first fault of a record in one line. Its place comes first."""
    first = fault.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{earlier_version(fault)}"


def earlier_version(fault: ValidationError) -> str:
    """Write that an earlier version may have made a record in which a field is missing or not known."""
    kind = fault.errors(include_url=False)[0]["type"]
    return "; an earlier version may have made it" if kind in ("missing", "extra_forbidden") else ""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of these keys and values.

    Raises ValueError for a key that occurs again: readers differ in the value they take.
    """
    key, count = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 1)
    if count > 1:
        raise ValueError(f"key {key!r:.80} occurs {count} times")
    return dict(pairs)


class HintedError(ValueError):
    """A file that cannot be used.

    The message gives the fault and the reason, in one line. `hint`: what to do next.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def refuse_version(raw: object, wanted: int, where: str, error: type[HintedError], hint: str) -> None:
    """Refuse a document of another schema version than `wanted`. hint: for one that is not newer."""
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not is_version(version, wanted):
        newer = isinstance(version, int) and version > wanted
        raise error(
            f"{where}: schema_version is {version!r}; this robustcheck reads {wanted}",
            "git pull && pip install .  # in a clone" if newer else hint,
        )


class Context(Frozen):
    """The published robustness of an export's checkpoint. It is shown with the evidence and never decides."""

    library: str
    model: str
    weights: str
    image_size_px: int | None
    effective_robustness_pp: dict[str, float]
    mean_pp: float | None
    extrapolated: bool
    """of any shift shown"""
    source: str
    sentence: str


# position of the zero point among the inputs of an operator that writes a quantised tensor
WRITTEN_ZERO_AT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearMatMul": 7, "QLinearAdd": 7, "QLinearMul": 7}
WRITTEN_ZERO_AT |= {"QGemm": 8, "QLinearGlobalAveragePool": 4, "QLinearAveragePool": 4, "QLinearConcat": 1}


@dataclass(frozen=True)
class End:
    """The layer that makes a representation. Records hold it as text, `kind` or `kind:op`.

    >>> End.parse("activation:Relu")
    End(kind='activation', op='Relu')
    >>> str(End("pool"))
    'pool'
    """

    kind: str
    """linear, linear_of (a linear map of what the activation `op` gave), linear_unread (a linear layer whose weight
    could not be read), second_linear (a linear layer that reads another one), change_of_basis, residual (a sum of
    sums), normalisation, activation, pool or other"""
    op: str = ""
    """the ONNX operator; empty where the kind says enough"""

    def __str__(self) -> str:
        return f"{self.kind}:{self.op}" if self.op else self.kind

    @classmethod
    def parse(cls, text: str) -> End:
        """Return the end that `str` wrote as `text`. Any text is one, so that records of other versions can be read."""
        kind, _, op = text.partition(":")
        return cls(kind, op)

    @property
    def can_make_outliers(self) -> bool:
        """Return whether outlier features can be an artefact.

        They can come from the last layer alone, or from scores; no profile holds for such an end.
        """
        return self.kind in ("change_of_basis", "linear_of", "linear_unread", "second_linear")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: object) -> core_schema.CoreSchema:
        """Read and write a field of this type as text. That holds in JSON and in Python."""

        def read(value: object, as_text: Callable[[object], str]) -> End:
            return value if isinstance(value, End) else cls.parse(as_text(value))

        to_text = core_schema.to_string_ser_schema(when_used="always")
        return core_schema.no_info_wrap_validator_function(read, core_schema.str_schema(), serialization=to_text)


SCHEMA_VERSION = 1
DEFAULT = DATA / "default-4.json"
PACKAGED = {"default": DEFAULT, "default-4": DEFAULT}
"""Profiles that ship with the package, by the name that `--thresholds` takes."""

Statistic = Literal[
    "strength",
    "kurtosis",
    "persistence_ratio",
    "top3_share",
    "outlier_frequency",
    "negative_energy",
    "negative_z_energy",
    "two_sidedness",
]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
"""All that are measured; a profile names those that decide."""
DECIDING: tuple[Statistic, ...] = ("strength", "outlier_frequency", "two_sidedness")
"""Those that decide."""
ENERGIES: tuple[Statistic, ...] = ("negative_energy", "negative_z_energy")
Bounds = Literal["each", "looks"]
"""Where the deciding bounds hold: at every number of images, or at the looks of a run. Each lower bound has a
profile's alpha to itself."""
LOOKS_ALPHA = 0.05
"""The alpha that bounds at the looks of a run are made for (docs/statistics.md)."""
SHARPER: tuple[Bounds, ...] = ("each", "looks")
DEFINITIONS: dict[Statistic, str] = {
    "strength": "how far the three most extreme features stand out from the others: ordinary features give less than "
    "1, the reference sets with outlier features 5 to 165",
    "outlier_frequency": "share of the images in which the most extreme feature is extreme, always on the same side "
    "(beyond 4 SD): 1 is every image",
    "two_sidedness": "how evenly the other features spread over positive and negative values: 0.5 is evenly, 0 is one "
    "sign only, as after a ReLU",
    "kurtosis": "the published statistic: the fourth moment of an image's features (3 for Gaussian ones), mean over "
    "images",
    "persistence_ratio": "kurtosis over the kurtosis that is left without each feature's mean over the images",
    "top3_share": "share of the kurtosis that the three strongest features make up, 0 to 1",
    "negative_energy": "share of the energy of the representation below zero, without the three strongest features",
    "negative_z_energy": "the same about each image's median",
}
"""Each statistic in a sentence, for every report; the formulas are in docs/statistics.md."""
PREPROCESSING_RULE = (
    "each model's own, from its contract, a sidecar or an option; what had to be assumed, or is not what the contract "
    "says, never passes"
)


class ProfileError(HintedError):
    """A profile that cannot be used."""


class Threshold(Frozen):
    """A threshold and the gap around it. A confidence bound must exceed it for PASS."""

    minimum: float = Field(ge=0)
    highest_without: float
    """largest value of a set without the indication (over random subsets of 50 images)"""
    highest_without_set: str
    lowest_with: float
    """smallest value of a set with the indication"""
    lowest_with_set: str


class Nearest(Frozen):
    """A set without the label, or a trap. It comes with the statistic that turns it away."""

    set: str
    statistic: Statistic
    factor: float
    """by which it lies below the least of the passing sets"""


class Rate(Frozen):
    """The rate of false PASS in one population. Only checkpoints without the label count."""

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
    otherwise: tuple[str, ...]
    """those that are judged otherwise than most of their kind"""


class TensorFit(Frozen):
    """The separation of the sets by one tensor. It is compared with the one that the profile is for."""

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
    with_indication: tuple[str, ...]
    without_indication: tuple[str, ...]
    n_with_checkpoints: int = 0
    n_without_checkpoints: int = 0
    missed: tuple[str, ...] = ()
    """sets with the label that the thresholds do not pass"""
    hard_cases: tuple[tuple[str, str], ...] = ()
    """(set known to be misjudged by outlier features, what the thresholds say of it)"""
    unlabelled_passing: tuple[str, ...] = ()
    """sets without a label that pass: no part of any rate"""
    excluded: tuple[tuple[str, str], ...]
    """(set, why it was left out of the fit)"""
    missing: tuple[tuple[str, str], ...] = ()
    """(model of the suite that could not be measured, why); not empty = the calibration is not complete"""
    left_out_false_pass: tuple[str, ...]
    """sets without the indication that would PASS if their checkpoint were left out of the fit"""
    left_out_false_warn: tuple[str, ...]
    """sets with the indication that would WARN if their checkpoint were left out of the fit"""
    false_pass_upper: float
    """one-sided 95 % Clopper–Pearson bound of the false-PASS rate over checkpoints, each left out in turn"""
    false_warn_upper: float
    not_left_out: tuple[str, ...] = ()
    """checkpoints without which nothing can be fitted; they count in no rate"""
    family_out: tuple[tuple[str, str], ...]
    """(group left out whole, what the fit to the others says of it)"""
    tensors: tuple[TensorFit, ...] = ()
    """the tensors that were compared; empty where there was one"""
    n_traps: int = 0
    """simulated and derived sets that must not pass, and sets that are not evidence"""
    nearest: tuple[Nearest, ...] = ()
    """the sets without the label and the traps that lie nearest to those with it, the nearest first"""
    rates: tuple[Rate, ...] = ()
    by_training: tuple[Trained, ...] = ()


class Profile(Frozen):
    """The thresholds for `judge`. They hold only for the statistic version, tensors and widths named here."""

    schema_version: int = SCHEMA_VERSION
    id: str
    statistic_version: int
    definitions: dict[Statistic, str] = Field(default_factory=dict)
    tensor: str = "representation"
    """which tensor of a model's contract it is for"""
    tensor_rules: tuple[str, ...]
    pools: tuple[str, ...]
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
    limits: tuple[str, ...]
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
    path = DEFAULT if spec is None else PACKAGED.get(str(spec), Path(spec))
    is_packaged = path in PACKAGED.values()
    name = path.name if is_packaged else str(path)
    try:
        text = read_bytes(path, MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as fault:
        why = getattr(fault, "strerror", fault)
        raise ProfileError(f"{name}: threshold profile cannot be read ({why})") from fault
    try:
        raw = json.loads(text, object_pairs_hook=unique_keys)
    except ValueError as fault:  # an integer of thousands of digits, too
        where = f"line {fault.lineno}: {fault.msg}" if isinstance(fault, json.JSONDecodeError) else str(fault)
        raise ProfileError(f"{name}: threshold profile is not JSON ({where})") from fault
    return checked(raw, name, is_packaged=is_packaged)


def checked(content: object, name: str, *, is_packaged: bool = False) -> Profile:
    """Return a profile that can judge. Raises ProfileError as `load`; name: in its message."""
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
    """Return why a profile's statistics allow no verdict. Empty where they allow one."""
    if profile.bounds == "looks" and profile.alpha != LOOKS_ALPHA:
        return f"alpha is {profile.alpha:g}; bounds 'looks' are made for {LOOKS_ALPHA:g}"
    deciding = profile.thresholds.keys()
    if deciding == set(DECIDING):
        return ""
    return f"thresholds are of {', '.join(profile.deciding) or 'nothing'}; a profile decides by {', '.join(DECIDING)}"


@cache
def packaged() -> tuple[Profile, ...]:
    """Return the profiles of the package."""
    return tuple(load(path) for path in dict.fromkeys(PACKAGED.values()))


def looser_than(profile: Profile, other: Profile) -> tuple[str, ...]:
    """List the ways in which a profile is looser.

    It then lets models pass that the other one does not; each way takes a few words, and there may be none.
    """
    out = [
        f"{name} {profile.thresholds[name].minimum:g} below {other.thresholds[name].minimum:g}"
        for name in other.deciding
        if name in profile.thresholds and profile.thresholds[name].minimum < other.thresholds[name].minimum
    ]
    if not_asked := [name for name in other.deciding if name not in profile.thresholds]:
        out.append(f"no {', no '.join(not_asked)}")
    if profile.min_images < other.min_images:
        out.append(f"{profile.min_images} images instead of {other.min_images}")
    if profile.alpha > other.alpha:
        out.append(f"error rate of the bounds {profile.alpha:g} instead of {other.alpha:g}")
    if SHARPER.index(profile.bounds) > SHARPER.index(other.bounds):
        out.append(f"bounds {profile.bounds!r} instead of {other.bounds!r}")
    for field in ("tensor_rules", "pools", "ends"):
        if more := sorted(map(str, set(getattr(profile, field)) - set(getattr(other, field)))):
            out.append(f"{field} also {', '.join(more)}")
    if profile.min_features < other.min_features or profile.max_features > other.max_features:
        out.append(
            f"{profile.min_features} to {profile.max_features} features instead of {other.min_features} to "
            f"{other.max_features}"
        )
    return tuple(out)
