"""What the HTML report says of one model, before a template writes it: words, rows and pictures of each part; pure."""

from __future__ import annotations

from collections.abc import Sequence

from robustcheck_onnx.checker.evidence import Gallery, OutlierFeature, SeenImage
from robustcheck_onnx.checker.statistics import OUTLIER_SD, TOP_FEATURES
from robustcheck_onnx.checker.text import bound_text, count_text, gap_text, number_text, percent_text, short_checkpoint
from robustcheck_onnx.checker.verdict import NAMES, RULES
from robustcheck_onnx.thresholds import published
from robustcheck_onnx.thresholds.profile import DEFINITIONS, STATISTICS

from .. import facts, words
from ..forms import Options
from ..record import Placed, Report
from . import charts, views
from .views import FeatureRow, Model, PlaceRow, ReasonView, Seen, StatisticRow, Suite

SIGNS = {"PASS": "✓", "WARN": "▲", "ERROR": "✗"}
CLEARS: dict[words.Clears, tuple[str, str, str]] = {
    "yes": ("yes", "✓", "pass"),
    "no": ("no", "✗", "warn"),
    "straddles": ("straddles", "~", "warn"),
    "not measured": ("unknown", "?", "warn"),
}
NO_GALLERY = "No single images were kept in this run."


# --------------------------------------------------------------------------------------------------------- model


def _model_of(report: Report, anchor: str, options: Options) -> Model:
    s, gallery = report.evidence.statistics, report.evidence.gallery
    verdict = report.verdict.verdict
    gate, remark = _gate(report)
    marks = {"mean": s.kurtosis.estimate, "median": s.kurtosis_quantiles[2] if s.kurtosis_quantiles else None}
    chart = charts.histogram(
        s.histogram_edges, s.histogram_counts, {word: value for word, value in marks.items() if value is not None}
    )
    return Model(
        anchor=anchor,
        name=report.evidence.model.file,
        source=report.evidence.model.source,
        synthetic=report.evidence.model.synthetic,
        digest=report.evidence.model.digest,
        verdict=verdict,
        sign=SIGNS[verdict],
        meaning=words.meaning_text(report.verdict),
        gate=gate,
        gate_remark=remark,
        tiles=_tiles(report),
        reasons=_reasons(report),
        expired=_expired(report),
        notes=report.notes,
        confidence=f"{100 * (1 - s.alpha):g} %",
        statistics=_statistics(report),
        ticks=charts.ratio_ticks(),
        context=_context(report),
        histogram=chart,
        quantiles=_quantiles(s.kurtosis_quantiles),
        features=tuple(_feature(f) for f in _worth_showing(s.features)),
        features_remark=f"{len(s.persistent) or 'No'} persistent outlier {_plural(len(s.persistent), 'feature')} among "
        f"{count_text(s.n_features, 'feature')}: beyond {OUTLIER_SD:g} SD in at least half of the images.",
        map=charts.feature_map(gallery, s.features),
        map_remark=_map_remark(gallery),
        suite=_suite(report),
        most=_seen(gallery.most if gallery else (), options),
        least=_seen(gallery.least if gallery else (), options),
        images_remark="" if gallery else NO_GALLERY,
        facts=facts.blocks_of(report),
        claim=report.claim,
        limits=report.profile.limits,
    )


def _plural(n: int, noun: str) -> str:
    return noun if n == 1 else noun + "s"


def _gate(report: Report) -> tuple[str, str]:
    gate = report.gate
    if gate is None:
        return "", ""
    remark = ""
    if gate.exit_code == 0 and report.verdict.verdict == "WARN":
        remark = "The gate lets this model through although the verdict is WARN."
    return f"Exit code {gate.exit_code}: {gate.rule}.", remark


def _tiles(report: Report) -> tuple[tuple[str, str, str], ...]:
    s, images = report.evidence.statistics, report.evidence.images
    thresholds = report.profile.thresholds
    cleared = sum(words.clears(getattr(s, name), thresholds[name].minimum) == "yes" for name in STATISTICS)
    low, high = s.kurtosis.low, s.kurtosis.high
    interval = "no interval" if low is None or high is None else f"{number_text(low)} to {number_text(high)}"
    return (
        ("Thresholds cleared", f"{cleared} of {len(STATISTICS)}", "by the whole interval"),
        ("Activation kurtosis", number_text(s.kurtosis.estimate), interval),
        ("Persistent outlier features", str(len(s.persistent)), f"of {s.n_features}"),
        ("Images measured", str(s.n_images), f"of {images.n_available}, {images.sanity.n_varied} varied"),
    )


def _reasons(report: Report) -> tuple[ReasonView, ...]:
    waived = {w.reason: w for w in report.gate.waived} if report.gate else {}
    out = []
    for reason in report.verdict.reasons:
        rule, waiver = RULES.get(reason.id), waived.get(reason.id)
        told = f"Waived by {waiver.owner} until {waiver.expires}: {waiver.because}" if waiver else ""
        out.append(ReasonView(reason.id, rule.title if rule else reason.id, reason.seen, reason.next_step, told))
    return tuple(out)


def _expired(report: Report) -> tuple[str, ...]:
    expired = report.gate.expired if report.gate else ()
    return tuple(
        f"A waiver of {w.reason} by {w.owner} ended on {w.expires} and counts for nothing: {w.because}" for w in expired
    )


def _statistics(report: Report) -> tuple[StatisticRow, ...]:
    s, thresholds = report.evidence.statistics, report.profile.thresholds
    rows = []
    for name in STATISTICS:
        interval, minimum = getattr(s, name), thresholds[name].minimum
        word, sign, colour = CLEARS[words.clears(interval, minimum)]
        bounds = "not measured"
        if interval.low is not None and interval.high is not None:
            bounds = f"{bound_text(interval.low, minimum)} to {bound_text(interval.high, minimum)}"
        rows.append(
            StatisticRow(
                name=NAMES[name],
                definition=DEFINITIONS[name],
                value="–" if interval.estimate is None else number_text(interval.estimate),
                interval=bounds,
                threshold=f"> {minimum:g}",
                word=word,
                sign=sign,
                colour=colour,
                bar=charts.bar(interval, minimum),
            )
        )
    return tuple(rows)


def _context(report: Report) -> tuple[tuple[str, str], ...]:
    s = report.evidence.statistics
    return (
        ("Centred kurtosis", number_text(s.centred_kurtosis)),
        ("RMS kurtosis", number_text(s.rms_kurtosis)),
        ("Max-median ratio", words.max_median_text(s)),
        ("Zeros", percent_text(s.zero_share)),
        ("Negative values", percent_text(s.negative_share)),
        ("Spread over images", percent_text(s.spread)),
    )


def _quantiles(values: tuple[float, float, float, float, float] | None) -> str:
    if values is None:
        return ""
    low, first, middle, third, high = (number_text(value) for value in values)
    return f"Half of the images lie between {first} and {third}, nine in ten between {low} and {high}; median {middle}."


def _worth_showing(features: Sequence[OutlierFeature]) -> list[OutlierFeature]:
    return [f for rank, f in enumerate(features) if f.persistent or rank < TOP_FEATURES][:12]


def _feature(f: OutlierFeature) -> FeatureRow:
    share, frequency = percent_text(f.share), percent_text(f.frequency)
    return FeatureRow(f.index, share, frequency, f"{f.mean_z:+z.1f}", f.persistent)


def _map_remark(gallery: Gallery | None) -> str:
    if gallery is None:
        return NO_GALLERY
    if not gallery.shown or not gallery.features:
        return "There is no feature or no image to show."
    return (
        f"The strongest {count_text(len(gallery.features), 'feature')} on the first "
        f"{count_text(len(gallery.shown), 'usable image')}. One column is one image. A row in the strongest "
        "colour from end to end is an outlier feature that persists."
    )


# -------------------------------------------------------------------------------------------- images, reference


def _seen(images: Sequence[SeenImage], options: Options) -> tuple[Seen, ...]:
    return tuple(
        Seen(
            name=image.name,
            kurtosis=number_text(image.kurtosis),
            uri=_safe(options.thumbnails.get(image.digest, "")),
            why_none=options.missing.get(image.digest, "no preview"),
        )
        for image in images
    )


def _safe(uri: str) -> str:
    """The URI if it is an embedded picture; nothing is ever fetched."""
    return uri if uri.startswith(("data:image/jpeg;base64,", "data:image/webp;base64,")) else ""


def _suite(report: Report) -> Suite:
    s, thresholds = report.evidence.statistics, report.profile.thresholds
    known, unknown = _known(report.reference)
    own_pp = report.published.mean_pp if report.published else None
    chart = charts.scatter(known, unknown, s.kurtosis, thresholds["kurtosis"].minimum, own_pp)
    ratio = s.persistence_ratio.estimate
    near = _places(report, ratio, everything=False)
    return Suite(chart, known, _suite_remarks(report, known, unknown), near, _places(report, ratio, everything=True))


def _known(reference: Sequence[Placed]) -> tuple[tuple[views.Known, ...], tuple[Placed, ...]]:
    """Reference sets by checkpoint where effective robustness is published, best first, and the other sets."""
    rows = {(row.library, row.model, row.weights): row for row in published.published()}
    sets: dict[tuple[str, str, str], list[Placed]] = {}
    unknown = []
    for placed in reference:
        key = published.MEASURED.get(placed.images)
        row = rows.get(key) if key else None
        if key is None or row is None or row.mean_pp is None:
            unknown.append(placed)
        else:
            sets.setdefault(key, []).append(placed)

    def mean(key: tuple[str, str, str]) -> float:
        return rows[key].mean_pp or 0.0

    known = tuple(
        views.Known(
            number=number,
            checkpoint=rows[key].name,
            group=words.group_text(sets[key][0].group),
            kurtosis=tuple(sorted(p.kurtosis for p in sets[key])),
            mean_pp=mean(key),
            shows=all(p.shows_outlier_features for p in sets[key]),
        )
        for number, key in enumerate(sorted(sets, key=lambda key: -mean(key)), 1)
    )
    return known, tuple(unknown)


def _suite_remarks(report: Report, known: Sequence[views.Known], unknown: Sequence[Placed]) -> tuple[str, ...]:
    out = []
    if known:
        groups = sorted({row.group for row in known})
        one_kind = (
            f" All of them are {groups[0]} models, so the picture cannot show whether kurtosis parts robust from "
        )
        one_kind += "less robust ones."
        out.append(
            f"Both numbers are known of {count_text(len(known), 'checkpoint')}."
            + (one_kind if len(groups) == 1 else "")
            + f" Of {count_text(len(unknown), 'reference set')} the average over the four shifts is not "
            "published, or the source does not name the weights: they stand in the strip at the picture's foot."
        )
    if report.published is not None:
        out.append(f"{report.published.sentence} Context only: it decides nothing.")
    else:
        out.append("Of this model no effective robustness is published here; its line shows the kurtosis only.")
    if widest := words.widest_kurtosis(report.reference):
        name, least, most = widest
        out.append(
            f"Kurtosis moves with the images: {name} reads {number_text(least)} on one set and {number_text(most)} on "
            "another."
        )
    return tuple(out)


def _places(report: Report, ratio: float | None, *, everything: bool) -> tuple[PlaceRow, ...]:
    if ratio is None or not report.reference:
        return ()
    own = number_text(report.evidence.statistics.kurtosis.estimate)
    return tuple(
        PlaceRow(rank, number_text(ratio), own, False, "", "this model", True, gap_text(left_out))
        if row is None
        else PlaceRow(
            rank,
            number_text(row.persistence_ratio),
            number_text(row.kurtosis),
            row.shows_outlier_features,
            words.group_text(row.group),
            row.checkpoint if everything else short_checkpoint(row.checkpoint),
            False,
            gap_text(left_out),
        )
        for rank, row, left_out in words.placed(report.reference, ratio, everything=everything)
    )
