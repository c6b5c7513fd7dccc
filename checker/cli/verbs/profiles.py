"""The group `profiles`: look at threshold profiles."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcheck_onnx.checker.errors import UsageError

from ..help import Verbs
from ..options import Color, Debug, Output
from ..output import print_report

if TYPE_CHECKING:
    from robustcheck_onnx.thresholds.profile import Profile


profiles = Verbs(name="profiles", help="List and show threshold profiles.")
Named = Annotated[str, typer.Argument(help="A profile file, or the name of a packaged one.", metavar="PROFILE")]


@profiles.verb("list", examples=("robustcheck profiles list mine.json",))
def list_profiles(
    files: Annotated[list[str] | None, typer.Argument(help="Further profile files.", metavar="PROFILE…")] = None,
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """List the packaged profiles, and files."""
    from robustcheck_onnx.checker.calibrate.profiles import render_list
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.thresholds.profile import PACKAGED

    packaged = {path: name for name, path in reversed(PACKAGED.items())}  # of two names for one, the first
    profiles_by_name = [(spec, _loaded(spec)) for spec in [*reversed(packaged.values()), *(files or [])]]
    if output == "json":
        rows = [
            {
                "profile": name,
                "id": p.id,
                "digest": p.digest,
                "tensor": p.tensor,
                "with": p.calibration.n_with_checkpoints,
                "without": p.calibration.n_without_checkpoints,
                "false_pass_upper": p.calibration.false_pass_upper,
                "edited": p.edited,
            }
            for name, p in profiles_by_name
        ]
        sys.stdout.write(as_json({"schema_version": 1, "tool": "robustcheck", "profiles": rows}))
    else:
        print_report(partial(render_list, profiles_by_name), color)
    return 0


@profiles.verb(examples=("robustcheck profiles show default",))
def show(name: Named = "default", output: Output = "terminal", color: Color = "auto", debug: Debug = False) -> int:
    """Show what a profile rests on, how often it is wrong, and what it holds for."""
    from robustcheck_onnx.checker.calibrate.profiles import render_profile
    from robustcheck_onnx.thresholds.profile import PACKAGED, to_json

    loaded = _loaded(name)
    if output == "json":
        sys.stdout.write(to_json(loaded))
    else:
        where = "packaged" if name in PACKAGED else name
        print_report(partial(render_profile, loaded, where=where), color)
    return 0


def check_id(name: str) -> None:
    """Raise UsageError for the id of a packaged profile."""
    from robustcheck_onnx.thresholds import profile

    if name in (known := list(profile.PACKAGED)):  # the ids of packaged profiles are names, too
        raise UsageError(f"--id is {name!r}; {', '.join(known)} are ids of packaged profiles", "--id mine-1")


def _loaded(spec: str) -> Profile:
    """The profile of a file or of a packaged name. Raises UsageError."""
    import difflib

    from robustcheck_onnx.thresholds import profile

    try:
        return profile.load(spec)
    except profile.ProfileError as fault:
        near = difflib.get_close_matches(spec, profile.PACKAGED, 1)
        exists = spec in profile.PACKAGED or Path(spec).exists()
        raise UsageError(
            str(fault), f"robustcheck profiles show {near[0]}" if near and not exists else "robustcheck profiles list"
        ) from fault
    except RecursionError as fault:
        raise UsageError(
            f"{spec}: threshold profile is nested too deeply; it must be a sealed profile", "robustcheck profiles list"
        ) from fault
