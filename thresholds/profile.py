"""A threshold profile: the thresholds and everything that fixes their meaning, sealed by a digest."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from robustcheck_onnx.thresholds.frozen import Frozen

SCHEMA_VERSION = 1
DEFAULT = Path(__file__).parent / "data" / "default.json"

Statistic = Literal[
    "kurtosis", "persistence_ratio", "top3_share", "outlier_frequency", "negative_energy", "negative_z_energy"
]
STATISTICS: tuple[Statistic, ...] = (
    "kurtosis",
    "persistence_ratio",
    "top3_share",
    "outlier_frequency",
    "negative_energy",
    "negative_z_energy",
)


class ProfileError(ValueError):
    """A profile that cannot be used; the message says what and why, in one line."""


class Threshold(Frozen):
    """The least value a confidence bound must exceed for PASS, and the gap it was placed in."""

    minimum: float = Field(ge=0)
    highest_without: float
    """largest value of a set without the indication (over random subsets of 50 images)"""
    highest_without_set: str
    lowest_with: float
    """smallest value of a set with the indication"""
    lowest_with_set: str
    bootstrap_low: float
    bootstrap_high: float
    """5 and 95 % of the threshold over fits to checkpoints drawn with replacement"""


class Calibration(Frozen):
    """What the thresholds rest on."""

    command: str
    table: str
    table_digest: str
    rule: str
    n_sets: int
    n_checkpoints: int
    with_indication: tuple[str, ...]
    without_indication: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    """(set, why it was left out of the fit)"""
    left_out_false_pass: tuple[str, ...]
    """sets without the indication that would PASS if their checkpoint were left out of the fit"""
    left_out_false_warn: tuple[str, ...]
    """sets with the indication that would WARN if their checkpoint were left out of the fit"""
    false_pass_upper: float
    """one-sided 95 % Clopper–Pearson bound of the false-PASS rate over checkpoints, each left out in turn"""
    false_warn_upper: float
    family_out: tuple[tuple[str, str], ...]
    """(group left out whole, what the fit to the others says of it)"""
    auroc: dict[Statistic, float]
    """how well each statistic alone parts the sets; kurtosis is the published one"""
    auroc_signed: dict[Statistic, float]
    """the same over the sets that are not rectified"""
    bootstrap_fits: int
    bootstrap_failed: int
    """resamples without any threshold: one side was missing, or the two overlapped"""


class Profile(Frozen):
    """Thresholds for `judge`. They hold only for the statistic version, tensors and widths named here."""

    schema_version: int = SCHEMA_VERSION
    id: str
    statistic_version: int
    tensor_rules: tuple[str, ...]
    pools: tuple[str, ...]
    ends: tuple[str, ...]
    """what may produce the representation (checker/layers.py `ends_in`); no set with the indication ended otherwise"""
    min_features: int
    max_features: int
    min_images: int = Field(ge=2)
    """least number of varied images"""
    alpha: float = Field(gt=0, lt=1)
    """error rate of the deciding confidence bounds together"""
    thresholds: dict[Statistic, Threshold]
    calibration: Calibration
    limits: tuple[str, ...]
    digest: str = ""


def digest_of(profile: Profile) -> str:
    """`sha256:` over the canonical JSON of the profile without its digest."""
    content = profile.model_dump(mode="json", exclude={"digest"})
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def seal(profile: Profile) -> Profile:
    """The profile with its digest filled in."""
    return profile.model_copy(update={"digest": digest_of(profile)})


def to_json(profile: Profile) -> str:
    """The profile as the text of a file."""
    return json.dumps(profile.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def load(path: Path | None = None) -> Profile:
    """Read and validate a profile.

    Args:
        path: a profile file; None = the default that ships with the package.

    Raises:
        ProfileError: unreadable, not a profile, of another schema version, incomplete, or edited by hand.
    """
    name = str(path) if path else DEFAULT.name
    try:
        text = (path or DEFAULT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise ProfileError(f"{name}: threshold profile cannot be read ({fault})") from fault
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as fault:
        raise ProfileError(f"{name}: threshold profile is not JSON (line {fault.lineno}: {fault.msg})") from fault
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise ProfileError(f"{name}: schema_version is {version!r}; this robustcheck reads {SCHEMA_VERSION}")
    try:
        profile = Profile.model_validate(raw)
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"{name}: {where}: {first['msg']}") from fault
    missing = [s for s in STATISTICS if s not in profile.thresholds]
    if missing:
        raise ProfileError(f"{name}: thresholds lack {', '.join(missing)}; all of {', '.join(STATISTICS)} are needed")
    if profile.digest != digest_of(profile):
        raise ProfileError(f"{name}: digest does not match the content; the profile was changed after it was sealed")
    return profile
