"""What a child behind the wall is asked (`isolation`), and its answers as records. Light: it opens nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from robustcheck_onnx.thresholds.frozen import Frozen

from . import isolation
from .errors import CannotAssessError, EnvironmentFaultError, RobustcheckError, UsageError
from .isolation import Wall
from .limits import NO_LIMITS, STATUS, Limits
from .report import Failed, Outcome, Report, json, sealed
from .storage.places import redact

if TYPE_CHECKING:
    from robustcheck_onnx.checker.progress import Tell
    from robustcheck_onnx.thresholds.profile import Profile

Answer = TypeVar("Answer")


class _Thumbnails(Frozen):
    """The fields of `Thumbnails`."""

    uris: dict[str, str]
    missing: dict[str, str]


def check(
    wall: Wall,
    model: str,
    *,
    profile: Profile,
    options: Mapping[str, Any],
    save_representations: str | None = None,
    from_memory: str = "",
    is_last: bool = True,
    progress: Tell | None,
) -> Report:
    """`pipeline.check` in a child.

    Args:
        wall: has the children.
        model: path or URL, as it was given.
        options: those of `evidence.Options` that were given, as JSON values.
        from_memory: bytes or ModelProto, where the file holds what was given in memory.
        is_last: see `Wall.run`.
        profile, save_representations, progress: as of `pipeline.check`.

    Raises as `pipeline.check` and `Wall.run`.
    """
    arguments = {
        "model": model,
        "thresholds": profile.model_dump(mode="json"),
        "options": dict(options),
        "save_representations": save_representations,
        "from_memory": from_memory,
    }
    about = f"<{from_memory}>" if from_memory else redact(model)
    answer = wall.run("check", arguments, about=about, tell=progress, is_last=is_last)
    return _made(Report.model_validate, answer, about)


def call(
    task: str,
    arguments: Mapping[str, Any],
    record: Callable[[Any], Answer],
    *,
    about: str,
    limits: Limits = NO_LIMITS,
    progress: Tell | None = None,
) -> Answer:
    """Another task of `child.TASKS`.

    record: makes the result of the child's answer, which is of JSON values; ValueError where it can't.
    Raises as that task and `Wall.run`.
    """
    with isolation.Wall(limits) as wall:
        return _made(record, wall.run(task, arguments, about=about, tell=progress), about)


def _made(record: Callable[[Any], Answer], answer: Any, about: str) -> Answer:
    try:
        return record(answer)
    except (ValueError, TypeError, KeyError) as fault:  # pydantic's error is a ValueError
        raise isolation.unreadable(about) from fault


def is_possible(given: object, *places: str | None) -> bool:
    """Whether a child can see what is read: neither images that were handed over, nor fsspec's memory."""
    return given is None and not any((place or "").startswith("memory:") for place in places)


def open_images(wall: Wall, images: str | None, *, seed: int, limit: int | None) -> None:
    """`images.open_images` in a child, for its errors."""
    arguments = {"images": images, "seed": seed, "limit": limit}
    wall.run("open_images", arguments, about=redact(images or "bundled photos"), is_last=False)


TEMPLATE_S: Final = 20.0
TEMPLATE_BYTES: Final = 1 << 30


def template(file: Path, outcomes: Sequence[Outcome], *, into_file: bool) -> str:
    """`report.template.render` of outcomes, in a child with limits of its own.

    Raises UsageError: as `render`, and where the template gives no text within TEMPLATE_S and TEMPLATE_BYTES.
    """
    final = [sealed(outcome) if isinstance(outcome, Report) else outcome for outcome in outcomes]
    arguments = {"documents": json.documents(final), "file": str(file), "into_file": into_file}
    memory = TEMPLATE_BYTES if STATUS.exists() else None
    try:
        return call(
            "template", arguments, str, about=str(file), limits=Limits(timeout_s=TEMPLATE_S, memory_bytes=memory)
        )
    except (CannotAssessError, EnvironmentFaultError) as fault:
        raise UsageError(
            f"{file}: template gave no text within {TEMPLATE_S:g} s and {TEMPLATE_BYTES >> 30} GiB of memory "
            f"({type(fault).__name__}); it must be done by then",
            "-o json=report.json, and a program of your own",
        ) from fault


def thumbnails(
    wall: Wall, outcomes: Sequence[Outcome], images: str | None, *, seed: int, limit: int | None
) -> dict[str, dict[str, str]]:
    """`thumbnails.make` in a child: the fields of `Thumbnails`. A child that fails costs the thumbnails alone."""
    reports = [outcome.model_dump(mode="json") for outcome in outcomes if not isinstance(outcome, Failed)]
    arguments = {"reports": reports, "images": images, "seed": seed, "limit": limit}
    about = redact(images or "bundled photos")
    try:
        return _made(_Thumbnails.model_validate, wall.run("thumbnails", arguments, about=about), about).model_dump()
    except RobustcheckError as fault:
        galleries = [report["evidence"]["gallery"] or {} for report in reports]
        seen = [image for gallery in galleries for image in (*gallery.get("most", ()), *gallery.get("least", ()))]
        return {"uris": {}, "missing": {image["digest"]: fault.message for image in seen}}
