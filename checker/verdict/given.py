"""The threshold profile that a caller names, as an error of this package where it is none."""

from __future__ import annotations

from pathlib import Path

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import Profile


def load_profile(thresholds: str | Path | Profile | None) -> Profile:
    """The profile that `thresholds` of `check` means. Raises UsageError for one without its seal."""
    if isinstance(thresholds, Profile):
        if thresholds.digest != profiles.digest_of(thresholds):  # reports and the cache know a profile by its digest
            raise UsageError(
                f"profile {thresholds.id}: digest does not match the content; a changed profile must be sealed",
                "robustcheck calibrate --help",
            )
        return thresholds
    try:
        return profiles.load(thresholds)
    except profiles.ProfileError as fault:
        raise UsageError(str(fault), "leave out --thresholds for the default profile") from fault
    except RecursionError as fault:
        raise UsageError(
            f"{thresholds}: threshold profile is nested too deeply; it must be a sealed profile",
            "leave out --thresholds for the default profile",
        ) from fault
