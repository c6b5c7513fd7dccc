"""An image set: named, listed, decoded, preprocessed, judged for sanity, digested.

Comes in: what the user names as images (`--images`). May import: storage, evidence, text, errors. Never runs a model.
"""

from __future__ import annotations

from .decode import SUFFIXES
from .entries import Entries, Entry
from .given import Images, open_given
from .levels import LevelSums, level_sums
from .listing import image_files, is_ignored, parse_image_set
from .manifest import label_column
from .preprocess import apply, apply_uint8, as_photo, at_size, channels, scales_finitely
from .sanity import DESCRIBED, ImageSetState, Sketch, digest_of_pixels, varied
from .source import (
    Digests,
    ImageSource,
    Item,
    Picture,
    Skipped,
    Tensor,
    check_bad,
    digest_of_set,
    open_files,
    open_images,
    prefetch,
)
