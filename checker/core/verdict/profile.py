"""Load the threshold profile that a verdict is judged by."""

from pathlib import Path

from ....thresholds import profile as profiles
from ....thresholds.profile import Profile
from ...errors import UsageError


def load_profile(thresholds: str | Path | Profile | None) -> Profile:
    """Return the profile that `thresholds` means. Raises UsageError for one that can't be used."""
    try:
        if isinstance(thresholds, Profile):  # `model_copy` looks at no value
            return profiles.checked(thresholds.model_dump(warnings=False), f"profile {thresholds.id}")
        return profiles.load(thresholds)
    except (profiles.ProfileError, RecursionError) as fault:
        message = str(fault)
        if isinstance(fault, RecursionError):
            message = f"{thresholds}: threshold profile is nested too deeply; it must be a sealed profile"
        raise UsageError(message, "leave out --thresholds for the default profile") from fault
