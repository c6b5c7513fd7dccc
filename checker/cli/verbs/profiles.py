"""The group `profiles`: look at threshold profiles, compare them, seal one that was changed by hand."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robustcheck_onnx.checker.errors import UsageError
from robustcheck_onnx.checker.text import printable

from ..help import Verbs
from ..options import Color, Debug, Output
from ..output import check_target, print_report

if TYPE_CHECKING:
    from robustcheck_onnx.thresholds.profile import Profile


profiles = Verbs(name="profiles", help="List, show, validate, compare and seal threshold profiles.")
Named = Annotated[str, typer.Argument(help="A profile file, or the name of a packaged one.", metavar="PROFILE")]


@profiles.verb("list", examples=("robustcheck profiles list mine.json",))
def list_profiles(
    files: Annotated[list[str] | None, typer.Argument(help="Further profile files.", metavar="PROFILE…")] = None,
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """List the packaged profiles, and files."""
    from robustcheck_onnx.checker.calibrate import render_list
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
    from robustcheck_onnx.checker.calibrate import render_profile
    from robustcheck_onnx.thresholds.profile import PACKAGED, to_json

    loaded = _loaded(name)
    if output == "json":
        sys.stdout.write(to_json(loaded))
    else:
        where = "packaged" if name in PACKAGED else name
        print_report(partial(render_profile, loaded, where=where), color)
    return 0


@profiles.verb(examples=("robustcheck profiles validate mine.json",))
def validate(name: Named, debug: Debug = False) -> int:
    """Check that a file is a sealed profile that this version can judge by.

    Exit code 0, or 2 with what is wrong.
    """
    from robustcheck_onnx.checker.statistics import STATISTIC_VERSION

    loaded = _loaded(name)
    if loaded.statistic_version != STATISTIC_VERSION:
        raise UsageError(
            f"{name}: statistic_version is {loaded.statistic_version}; this robustcheck measures version "
            f"{STATISTIC_VERSION}, so that every verdict by it would be WARN",
            "calibrate again: robustcheck calibrate --help",
        )
    edited = f", changed by hand: {loaded.edited}" if loaded.edited else ""
    sys.stdout.write(printable(f"{name}: profile {loaded.id} {loaded.digest} is whole{edited}") + "\n")
    return 0


@profiles.verb(examples=("robustcheck profiles diff default mine.json",))
def diff(
    before: Annotated[str, typer.Argument(help="A profile.", metavar="A")],
    after: Annotated[str, typer.Argument(help="Another.", metavar="B")],
    output: Output = "terminal",
    color: Color = "auto",
    debug: Debug = False,
) -> int:
    """Show what differs between two profiles, and which lets more pass.

    The exit code is 0 either way.
    """
    from robustcheck_onnx.checker.calibrate import render_diff
    from robustcheck_onnx.checker.calibrate.profiles import differences
    from robustcheck_onnx.checker.text import as_json
    from robustcheck_onnx.thresholds.profile import looser_than

    a, b = _loaded(before), _loaded(after)
    if output == "json":
        rows = [difference._asdict() for difference in differences(a, b)]
        content = {"differences": rows, "looser": {before: looser_than(a, b), after: looser_than(b, a)}}
        sys.stdout.write(as_json({"schema_version": 1, "tool": "robustcheck"} | content))
    else:
        print_report(partial(render_diff, (before, after), a, b), color)
    return 0


@profiles.verb(examples=("robustcheck profiles seal edited.json --id mine-1 -o mine.json",))
def seal(
    file: Annotated[Path, typer.Argument(help="A profile that was changed by hand.", metavar="PROFILE.json")],
    profile_id: Annotated[
        str, typer.Option("--id", help="An id for the sealed profile that no other profile has.", metavar="ID")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The sealed profile.", metavar="PROFILE.json")],
    note: Annotated[str, typer.Option(help="What was changed and why; every report says it.", metavar="TEXT")] = "",
    debug: Debug = False,
) -> int:
    """Seal a profile that was changed by hand; it says so in every report."""
    from robustcheck_onnx.checker.storage import write_whole
    from robustcheck_onnx.thresholds import profile

    check_id(profile_id)
    check_target(out)
    try:
        changed = profile.read(file)
    except profile.ProfileError as fault:
        raise UsageError(str(fault), f"python -m json.tool {file}") from fault
    made = profile.resealed(changed, profile_id, note)
    write_whole(out, profile.to_json(made))
    sys.stdout.write(printable(f"wrote {out}: profile {made.id} {made.digest}, changed by hand: {made.edited}") + "\n")
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
        hint = (
            f"robustcheck profiles seal {spec} --id NAME -o OUT" if "changed after it was sealed" in str(fault) else ""
        )
        raise UsageError(
            str(fault),
            hint or (f"robustcheck profiles show {near[0]}" if near and not exists else "robustcheck profiles list"),
        ) from fault
    except RecursionError as fault:
        raise UsageError(
            f"{spec}: threshold profile is nested too deeply; it must be a sealed profile", "robustcheck profiles list"
        ) from fault
