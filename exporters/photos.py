"""The photos of an export: which ones parity is measured on, and which ones int8-qdq takes its ranges from."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from . import CallError, ExportError, forms, quoted
from .contract import Arrays, Photos
from .forms import Form
from .preprocessing import Array
from .proof import BATCHES

Transform = Callable[[Image.Image], Array]  # PIL image → (channel, height, width)

PARITY_PHOTOS = max(BATCHES)  # distinct photos needed
PHOTO_WORDS = ("photo", "parity is measured on real photos", "--parity-images FOLDER")  # for open_photo
CALIBRATION_PHOTOS = 128  # used at most; more hardly widen a range
FEWEST_CALIBRATION_PHOTOS = 16  # ranges of fewer photos cut off what the next ones have
MEASURED_PHOTOS = 64  # forms of int8-qdq are compared on, where as many are left for the ranges
FEWEST_MEASURED_PHOTOS = 32  # of fewer, ten neighbours are too many of all


class QuantisationPlan(NamedTuple):
    """The precision of a file, and what an int8-qdq file is made with; the rest is empty for another precision.

    forms: to try. calibration: photos for the ranges of activations. measured: photos that forms are compared on.
    """

    precision: str
    forms: tuple[Form, ...] = ()
    calibration: Sequence[Path] = ()
    measured: Sequence[Path] = ()


def quantisation_plan(precision: str, form: str | None, given: Photos, photos: Photos) -> QuantisationPlan:
    """Return the forms to try, the photos for quantisation ranges, and those that forms are compared on.

    No photo is in both. The second may be fewer where otherwise too few are left for the ranges.

    Args:
        precision: one of contract.PRECISIONS; only int8-qdq is calibrated.
        form: as for `forms.asked_forms`.
        given: image files for the ranges; empty for every other precision.
        photos: of the parity check, of which forms are compared on the first ones.

    Raises:
        ExportError: photos or a form for a precision without calibration, an unknown form, or too few photos (exit 2).
    """
    asked = forms.asked_forms(form, precision)
    if precision != "int8-qdq":
        if given:
            raise CallError(
                f"number of calibration photos is {len(given)}; only int8-qdq uses them, and the precision is "
                f"{precision}",
                "--precision int8-qdq",
            )
        return QuantisationPlan(precision)
    if len(photos) < FEWEST_MEASURED_PHOTOS:
        raise CallError(
            f"number of parity photos is {len(photos)}; int8-qdq is compared with the original on at least "
            f"{FEWEST_MEASURED_PHOTOS}",
            "--parity-images FOLDER",
        )
    for most in (MEASURED_PHOTOS, FEWEST_MEASURED_PHOTOS):
        measured = photos[:most]
        taken = {photo.resolve() for photo in measured}
        left = [photo for photo in given if photo.resolve() not in taken]
        if len(left) >= FEWEST_CALIBRATION_PHOTOS:
            return QuantisationPlan(precision, asked, left[:CALIBRATION_PHOTOS], measured)
    raise CallError(
        f"number of calibration photos is {len(left)} next to the {len(measured)} that the file is compared on; "
        f"int8-qdq needs at least {FEWEST_CALIBRATION_PHOTOS}",
        "--calibration-images FOLDER",
    )


def open_photo(path: Path, what: str, why: str, hint: str) -> Image.Image:
    """Return a photo as RGB.

    Args:
        what, why, hint: for the error: what the photo is, why it must be a real one, and the next step.

    Raises:
        ExportError: it is unreadable (exit 2).
    """
    try:
        with Image.open(path) as opened:
            return opened.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise CallError(f"{path}: {what} is unreadable ({error}); {why}", hint) from error


def stacked(photos: Photos, transform: Transform, name: str) -> Array:
    """Return photos of one size as a model reads them."""
    inputs = [transform(open_photo(photo, *PHOTO_WORDS)) for photo in photos]
    sizes = {image.shape for image in inputs}
    if len(sizes) > 1:
        raise ExportError(
            f"{name}: preprocessing leaves photos in {len(sizes)} sizes; parity is measured on batches, which need "
            "one size",
            f"robustcheck export onnx {quoted(name)} --parity-images FOLDER_OF_PHOTOS_OF_ONE_SIZE",
        )
    return np.stack(inputs).astype(np.float32)


def reader(photos: Photos, transform: Transform, input_name: str) -> Any:
    """Return the photos one by one, as ONNX Runtime's calibration asks for them."""

    def feed(path: Path) -> Arrays:
        hint = f"ls -l {quoted(path)}"
        image = open_photo(path, "calibration photo", "ranges are taken from real photos", hint)
        return {input_name: np.ascontiguousarray(transform(image)[None], dtype=np.float32)}

    feeds = map(feed, photos)
    return SimpleNamespace(get_next=lambda: next(feeds, None))
