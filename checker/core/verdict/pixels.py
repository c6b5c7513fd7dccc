"""Judge the values that a first layer reads: whether usual photos, or any images, can have them.

docs/dev/decisions/preprocessing-probe.md has the table that the limits rest on.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ...text import number_text
from ..evidence import GraphScaling, ModelFacts, PreprocessingFacts

# Mean and SD of the 141 bundled photos, RGB, 0–255, as CLIP's preset resizes and crops them
PHOTO_MEAN = (121.0, 123.2, 114.3)
PHOTO_SD = (69.0, 64.3, 70.5)
PHOTO_GREY = (121.5, 63.0)  # mean and SD of their luminance


class Levels(NamedTuple):
    """The mean and SD of each channel that a layer reads."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def __str__(self) -> str:
        """Write both, a channel each."""
        return f"mean {_values(self.mean)}, SD {_values(self.sd)}"


class Range(NamedTuple):
    """The means and SDs that a convention allows, both ends included."""

    mean: tuple[float, float]
    sd: tuple[float, float]

    def holds(self, levels: Levels) -> bool:
        """Return whether every channel lies in it."""
        (low, high), (low_sd, high_sd) = self
        return all(low <= mean <= high and low_sd <= sd <= high_sd for mean, sd in zip(*levels, strict=True))


# What usual photos may become: every family's channels lie inside, every doubled or forgotten step outside
UNIT = Range((-0.6, 1.5), (0.05, 3.0))
# By the preprocessing alone: the mean and SD of stained tissue (H-optimus-0) make -1.44 of a photo's blue
OUTSIDE = Range((-1.6, 1.5), (0.05, 3.0))
# Where both subtract a mean: a normalisation comes out, or 0 to 1; a mean subtracted twice is below -0.3 somewhere
TWO_MEANS = (Range((-0.3, 0.3), (0.4, 3.0)), Range((0.3, 0.7), (0.2, 0.35)))
BYTES = Range((-60.0, 160.0), (40.0, 110.0))
# What a set of images may become: dark, pale and flat ones too
ANY_UNIT = Range((-5.0, 5.0), (0.02, 3.0))
ANY_BYTES = Range((-130.0, 255.0), (8.0, 130.0))
CENTRED = 0.25
LEAST_CENTRED_SD = 0.4  # who subtracts a mean divides too: 0.5/0.5, the weakest division, leaves SD 0.50
RAW_MEAN = 60.0  # bytes from which no mean was subtracted have 114 to 123


def levels_at_input(model: ModelFacts, preprocessing: PreprocessingFacts) -> Levels:
    """Return the levels of usual photos at the input, by the declared preprocessing."""
    declared = preprocessing.preprocessing
    mean: tuple[float, ...] = PHOTO_MEAN
    sd: tuple[float, ...] = PHOTO_SD
    if declared.color_order == "grey":
        mean = PHOTO_GREY[:1]
        sd = PHOTO_GREY[1:]
    elif declared.color_order == "BGR":
        mean = PHOTO_MEAN[::-1]
        sd = PHOTO_SD[::-1]
    if model.input_type != "uint8":
        mean, sd = declared.scaled(mean, sd)
    return Levels(mean, sd)


def expected_levels(model: ModelFacts, preprocessing: PreprocessingFacts) -> Levels:
    """Return the levels of usual photos at the first layer, by the declared preprocessing and the graph's own map."""
    return levels_behind(model.scaling, *levels_at_input(model, preprocessing))


def levels_behind(scaling: GraphScaling | None, mean: Sequence[float], sd: Sequence[float]) -> Levels:
    """Map the input's levels through the graph's scaling, unless the record's channels are not the input's."""
    if scaling is None or any(channel >= len(mean) for channel in scaling.channels):
        return Levels(tuple(mean), tuple(sd))
    means = []
    sds = []
    for channel, factor, offset in zip(scaling.channels, scaling.factor, scaling.offset, strict=True):
        means.append(mean[channel] * factor + offset)
        sds.append(sd[channel] * abs(factor))
    return Levels(tuple(means), tuple(sds))


def scaled_in_both(model: ModelFacts, preprocessing: PreprocessingFacts, scaling: GraphScaling | None) -> bool:
    """Return whether preprocessing and graph, by `scaling`, both scale pixels."""
    declared = preprocessing.preprocessing
    plain = declared.rescale == 1 and not any(declared.mean) and set(declared.std) == {1.0}
    return _scales(scaling) and model.input_type != "uint8" and not plain


def is_usual(model: ModelFacts, preprocessing: PreprocessingFacts, scaling: GraphScaling | None) -> bool:
    """Return whether a first layer that reads what `scaling` gives may get usual photos, by one range for all channels.

    The preprocessing alone may be made for other images than photos. Where both scale, values about zero must be
    spread as a normalisation does; where both subtract a mean, the mean of photos must be about zero, or all be 0 to 1.
    """
    levels = levels_behind(scaling, *levels_at_input(model, preprocessing))
    if not scaled_in_both(model, preprocessing, scaling):
        return _in_one((UNIT if _scales(scaling) else OUTSIDE, BYTES), levels)
    if any(abs(mean) < CENTRED and sd < LEAST_CENTRED_SD for mean, sd in zip(*levels, strict=True)):
        return False
    if scaling is not None and any(scaling.offset) and any(preprocessing.preprocessing.mean):
        return _in_one((*TWO_MEANS, BYTES), levels)
    return _in_one((UNIT, BYTES), levels)


def is_possible(levels: Levels) -> bool:
    """Return whether any images, dark, pale and flat ones too, can have these levels."""
    return _in_one((ANY_UNIT, ANY_BYTES), levels)


def is_raw(levels: Levels) -> bool:
    """Return whether the first layer gets usual photos as 0–255 from which no mean was subtracted."""
    return _in_one((BYTES,), levels) and min(levels.mean) > RAW_MEAN


def steps_text(scaling: GraphScaling) -> str:
    """Write a graph's scaling as (x − mean) / std."""
    return f"(x − {_values(scaling.mean)}) / {_values(scaling.std)} ({', '.join(scaling.ops)})"


def _scales(scaling: GraphScaling | None) -> bool:
    return scaling is not None and (any(scaling.offset) or set(scaling.factor) != {1.0})


def _in_one(ranges: Sequence[Range], levels: Levels) -> bool:
    return any(allowed.holds(levels) for allowed in ranges)


def _values(values: Sequence[float]) -> str:
    """Write one value per channel, or one where all are written alike."""
    texts = [number_text(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)
