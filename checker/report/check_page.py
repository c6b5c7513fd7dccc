"""Make what the page of a check has and no other form: single images, published robustness, error rates. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ...thresholds.context import Context
from ...thresholds.profile import Calibration, Profile
from ..core.evidence import Evidence, SeenImage
from ..text import number_text, percent_text
from . import charts
from .document import Block, Drawing, Facts, Photo, Photos, Section
from .model_names import FormOptions

MAP_REMARK = (
    "One column is one image. A row in the strongest colour from end to end is extreme in every image. The map has the "
    "strongest features on the first usable images."
)
RATES_REMARK = "of checkpoints that were left out of the fit; the bounds have 95 % confidence"


def sections(
    evidence: Evidence,
    profile: Profile,
    published: Context | None,
    options: FormOptions,
) -> Iterator[Section]:
    """Yield the sections: single images, what is published of the model, and how often PASS was wrong."""
    images = tuple(_images(evidence, options))
    yield Section("Single images", MAP_REMARK, images, "page", is_folded=True)
    if published is not None:
        yield Section("Published robustness", "context only: it decides nothing", (published.sentence,), "page")
    yield Section("How often PASS was wrong", RATES_REMARK, (_rates(profile.calibration),), "page")


def _images(evidence: Evidence, options: FormOptions) -> Iterator[Block]:
    """Yield the map of features over images, and the photos of largest and smallest kurtosis."""
    gallery = evidence.gallery
    figure = charts.feature_map(gallery, evidence.statistics.features)
    if gallery is None or figure is None:
        yield "There is no feature or no image to show."
        return
    strong = [row.text for row in figure.rows if row.strong]
    text = ". ".join(strong) or "No feature here is extreme in half of all images measured"
    yield Drawing(figure, f"{text}.")
    for title, images in (("Largest kurtosis", gallery.most), ("Smallest kurtosis", gallery.least)):
        if images:
            yield Photos(tuple(_photo(image, options) for image in images), title)


def _photo(image: SeenImage, options: FormOptions) -> Photo:
    uri = options.thumbnails.get(image.digest, "")
    missing = options.missing.get(image.digest, "no preview")
    return Photo(image.name, f"K {number_text(image.kurtosis)}", uri, missing)


def _rates(calibration: Calibration) -> Facts:
    """Return how often PASS was wrong, by group of checkpoints."""
    rates = calibration.shown_rates
    rows = [(rate.of, f"{rate.n_wrong} of {rate.n}, at most {percent_text(rate.upper)}") for rate in rates]
    if not rows:
        rows = [("all", f"at most {percent_text(calibration.false_pass_upper)}")]
    return Facts(tuple(rows))
