"""Prepare a photo for the model: preprocessed, sketched, and checked."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
from PIL import Image

from ...arrays import AnyArray, GenericArray
from ...errors import CannotAssessError, UsageError
from ...text import Texts, frozen, quoted
from ..images import sanity
from ..images.preprocess import LevelSums, apply_uint8, as_photo, level_sums
from ..images.sanity import Sketch, digest_of_pixels
from ..images.source import Item, Skipped, Tensor
from ..model.layers import show_shape
from ..model.open import ModelFile
from ..preprocessing import Preprocessing
from .opening import Inputs


@frozen
class Prepared:
    """An image that is ready for the model."""

    name: str
    digest: str
    notes: Texts
    pixels: GenericArray
    """(height, width, channel): uint8 of a photo, as `preprocess.apply_uint8` gives it; a tensor's own float values"""
    sketch: Sketch | int | None
    """a digest alone past the images that are described; None where the set is not looked at"""
    levels: LevelSums
    """of `pixels`"""


def prepare(
    item: Item, model: ModelFile, preprocessing: Preprocessing, described: Container[str] | None
) -> Prepared | Skipped:
    """Preprocess and sketch one image, or skip one that this model can't take.

    Args:
        item: from the image set.
        model: takes the pixels.
        preprocessing: makes them of a photo; a tensor is preprocessed already.
        described: names of the images whose sketches are complete; None = no sketch of any.

    Raises:
        UsageError: a tensor of another shape than the model takes.
    """
    if isinstance(item, Skipped):
        return item
    notes: Texts = ()
    if isinstance(item, Tensor):
        _check_shape(item, model, preprocessing)
        pixels: AnyArray = np.ascontiguousarray(np.moveaxis(item.values, 0, -1))
        photo = as_photo(preprocessing, pixels)
    else:
        photo = item.image
        notes = item.notes
        try:
            pixels = apply_uint8(preprocessing, photo)
        except CannotAssessError as fault:  # a strip that cannot be resized: this image's fault, not the run's
            return Skipped(item.name, fault.message)
    sketch = _sketch(photo, item.name, described)
    return Prepared(item.name, item.digest, notes, pixels, sketch, level_sums(pixels))


def _check_shape(tensor: Tensor, model: ModelFile, preprocessing: Preprocessing) -> None:
    takes = (model.image_input.channels or 3, *preprocessing.size)
    if takes != tensor.values.shape:
        raise UsageError(
            f"{tensor.name}: tensor (channel, height, width) is {tensor.values.shape}; {model.path} takes "
            f"{show_shape(takes)}",
            f"robustcheck inspect {quoted(model.path)}",
        )


def stack(batch: Sequence[Prepared]) -> GenericArray:
    """Stack a batch's pixels, (image, height, width, 3).

    Raises TypeError for photos among tensors: their bytes would pass for values that are scaled already.
    """
    return np.stack([image.pixels for image in batch], casting="no")


def _sketch(image: Image.Image, name: str, described: Container[str] | None) -> Sketch | int | None:
    if described is None:
        return None
    return sanity.describe(image) if name in described else digest_of_pixels(image)


def prepare_item(item: Item, inputs: Inputs) -> Prepared | Skipped:
    """Prepare one image as the job says."""
    return prepare(item, inputs.models[0], inputs.preprocessing.preprocessing, inputs.described)
