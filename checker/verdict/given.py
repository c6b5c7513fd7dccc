"""The threshold profile that a caller names, as an error of this package where it is none."""

from __future__ import annotations

from pathlib import Path

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import Profile


def load_profile(thresholds: str | Path | Profile | None) -> Profile:
    """Return the profile that `thresholds` means. Raises UsageError for one that can't be used."""
    if isinstance(thresholds, Profile):
        wrong = profiles.wrong_statistics(thresholds)
        if thresholds.digest != profiles.digest_of(thresholds):  # reports know a profile by its digest
            wrong = "digest does not match the content; a changed profile must be sealed"
        if wrong:
            raise UsageError(f"profile {thresholds.id}: {wrong}", "robustcheck calibrate --help")
        return thresholds
    try:
        return profiles.load(thresholds)
    except (profiles.ProfileError, RecursionError) as fault:
        deep = f"{thresholds}: threshold profile is nested too deeply; it must be a sealed profile"
        raise UsageError(
            deep if isinstance(fault, RecursionError) else str(fault), "leave out --thresholds for the default profile"
        ) from fault
