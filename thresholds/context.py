"""The published robustness of a checkpoint, as a report shows it."""

from .records import Frozen


class Context(Frozen):
    """The published robustness of an export's checkpoint, which is shown with the evidence and never decides."""

    library: str
    model: str
    weights: str
    image_size_px: int | None
    effective_robustness_pp: dict[str, float]
    mean_pp: float | None
    extrapolated: bool
    """of any shift shown"""
    source: str
    sentence: str
