"""Describe when a result was found, on which photos and with which preprocessing. Pure."""

from __future__ import annotations

from ..core.evidence import Evidence, PreprocessingFacts
from ..text import around, count_text
from .document import Cell, Words, name
from .preprocessing import pixels_text
from .record import Time

INTERVALS = (
    "An interval is about the photos that were given. Photos of a few scenes, products or classes are not independent: "
    "with 5 to 20 photos per scene, the lower bound for photos of other scenes was wrong in 3 to 24 % of simulated "
    "runs, not in 5 %. A kind of photo rarer than 1 in 50 may not be among them, so that the interval does not know it."
)
"""what an interval is about; studies/results/operating-characteristic.md has the rates"""
INTERVALS_IN_SHORT = "intervals are about these photos; photos of few scenes say less of others"


def basis_of(evidence: Evidence, time: Time | None) -> tuple[tuple[str, Words], ...]:
    """Return date, photos and preprocessing, and that a model is synthetic, with a label each."""
    images = evidence.images
    sanity = images.sanity
    measured = f"{evidence.statistics.n_images} of {count_text(images.n_available, 'photo')} measured"
    source = name(images.source)
    if images.bundled:
        source = Cell("photos that robustcheck brings along, not yours", "warn")
    return (
        ("Date", date_text(time)),
        ("Photos", f"{measured}; {sanity.n_varied} of {sanity.n_compared} compared are varied"),
        ("Their source", source),
        ("Preprocessing", preprocessing_cell(evidence.preprocessing)),
        ("Model", Cell(around("Synthetic: ", evidence.model.synthetic), "warn")),
    )


def date_text(time: Time | None) -> str:
    """Write the day and minute at which a run started.

    >>> date_text(Time(started="2026-12-01T18:47:30+00:00", wall_s=1.0, images_per_s=None))
    '2026-12-01 18:47 UTC'
    """
    if time is None:
        return "not recorded"
    minute = time.started[: len("2026-12-01T18:47")]
    return f"{minute.replace('T', ' ')} UTC"


def preprocessing_cell(preprocessing: PreprocessingFacts) -> Cell:
    """Return the normalisation and what states it. An assumed one is a warning."""
    words = pixels_text(preprocessing)
    if preprocessing.source == "assumed":
        return Cell(words, "warn")
    return Cell(words)
