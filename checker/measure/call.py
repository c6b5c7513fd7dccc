"""What a verb of Python was called with: its options, and its images."""

from __future__ import annotations

import os

from robustcheck_onnx.checker.evidence import STOCK, GivenOptions, Options, RunOptions
from robustcheck_onnx.checker.images.source import Images, ImageSource, open_given


def settle(images: Images | None, given: RunOptions, **defaults: int) -> tuple[Options, ImageSource | None]:
    """The options of a call, and its images where they are objects rather than the name of a set.

    Raises:
        TypeError, UsageError: as `Options.of` and `images.open_given`.
    """
    if images is None or isinstance(images, (str, os.PathLike)):
        path = images if images is None else os.fspath(images)
        if path == STOCK and not isinstance(images, str):
            path = os.path.join(os.curdir, path)  # noqa: PTH118 # a Path is a folder, whatever its name
        named: GivenOptions = {**given, "images": path}
        return Options.of(named, **defaults), None
    run = Options.of({**given, "images": None}, **defaults)
    source = open_given(images, seed=run.seed, limit=run.max_images)
    # a name that opens nothing: no code can take the bundled photos, or a folder, for them
    return run.model_copy(update={"images": f"<{source.spec}>"}), source
