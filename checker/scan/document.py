"""Make the document of a scan. It has a chart, a table and lists. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from robustcheck_onnx.checker.report.document import (
    Cell,
    Chart,
    Curve,
    Document,
    Facts,
    Section,
    Table,
    Words,
    facts_of_run,
    measured,
    name,
)
from robustcheck_onnx.checker.text import count_text, number_text, percent_text, range_text

from .records import LayerStatistics, Place, ScanReport

IN_A_LIST = 8  # features or places named in a list
_ByName = dict[str, list[tuple[int, float, float]]]
"""By the name of a feature, or of a feature at a place: layer number, share of the rows or images, largest value."""


def document_of(report: ScanReport) -> Document:
    """Return a scan's document."""
    model, images, layers = report.model, report.images, report.layers
    statistics = [layer.statistics for layer in layers]
    kurtosis = [number_text(each.kurtosis, missing="–") for each in statistics]
    n_images, values = images.n_usable, tuple(each.kurtosis or 0.0 for each in statistics)
    with_outliers = tuple(each.has_outliers for each in statistics)
    chart = Chart(
        "Kurtosis of each layer",
        tuple(str(number) for number in range(1, len(layers) + 1)),
        (
            Curve(
                "kurtosis",
                values,
                tuple(f"{layer.kind}, {layer.tensor}: {k}" for layer, k in zip(layers, kurtosis, strict=True)),
            ),
        ),
        top=number_text(max(values)),
        caption="Mean over rows of features; below, the number of the layer.",
        marked=with_outliers,
        mark="persistent outlier feature, beyond 6 SD in at least half of the rows",
    )
    facts = [
        ("Representation", model.tensor),
        ("Blocks found by", model.rule),
        ("Blocks that could not be read", model.n_left_out),
        ("Change of the model's output", f"{model.output_difference:.2g}"),
    ]
    run = [("Images", images.source), ("Digest", images.digest), ("Seed", images.seed)]
    return Document(
        question="scan",
        title="Outlier features through depth",
        subject="outlier features through the depth of a model",
        model=model,
        facts=facts_of_run(model, report.execution, report.time, count_text(n_images, "image"), name(images.source)),
        summary=report.summary,
        sections=(
            Section("Kurtosis", "mean over rows of features, by layer", (chart,), "short"),
            Section("Layers", "", (_layers(report),)),
            *_features(report),
            measured(facts, run, report.preprocessing.source, report.execution, report.time),
        ),
        notes=report.notes,
        limits=report.limits,
        version=report.tool_version,
        tiles=(
            ("Layers measured", len(layers), "ends of blocks, and the representation"),
            ("With persistent outlier features", sum(with_outliers), f"of {len(layers)}"),
            ("Kurtosis of the last layer", kurtosis[-1], layers[-1].kind),
            ("Images measured", max(each.n_images for each in statistics), f"of {images.n_available}"),
        ),
        hint="Information, not a verdict. -v shows each layer, notes and limits.",
    )


def _layers(report: ScanReport) -> Table:
    has_class = any(layer.class_token for layer in report.layers)
    rows: list[tuple[Words, ...]] = []
    for number, layer in enumerate(report.layers, 1):
        each = layer.statistics
        of_class = [_number(each.class_token_kurtosis)] if has_class else []
        rows.append(
            (
                *(str(number), layer.kind, name(layer.tensor), str(layer.width)),
                "×".join(map(str, layer.positions)) or "–",
                *(_number(each.kurtosis), *of_class, _number(each.mean_token_kurtosis), _number(each.rms_kurtosis)),
                Cell(persistent_text(each), "warn" if each.has_outliers else ""),
                *(_number(each.max_median_ratio), str(each.n_massive or "–")),
            )
        )
    of_class = ["?>class"] if has_class else []
    return Table(
        (
            *(">layer", "=kind", "?tensor", ">width", "?>tokens", ">kurtosis", *of_class, "?>mean"),
            *(">RMS", "persistent", ">max/med", ">massive"),
        ),
        tuple(rows),
        "kurtosis, RMS, persistent (|z| > 6 in at least half of the rows) over the features of each token or position; "
        + ("class, mean: kurtosis of the class token and of the mean over all" if has_class else "")
        + ("" if has_class else "mean: kurtosis of the mean over all positions")
        + "; max/med: largest over median |value|, – where the median is 0; massive: places with |value| > 100 and "
        "1000 × the median",
    )


def _number(value: float | None) -> str:
    return number_text(value, missing="–")


def persistent_text(measured: LayerStatistics, named: int = 3) -> str:
    """Return the layer's persistent outlier features. The most frequent comes first; "–" where there is none."""
    if not measured.n_persistent:
        return "–"
    more = measured.n_persistent - named
    first = ", ".join(str(each.feature) for each in measured.persistent[:named])
    return f"{first} + {more} more" if more > 0 else first


def _features(report: ScanReport) -> list[Section]:
    """List features with layers, tokens and positions. There is a section for each kind."""
    persistent: _ByName = defaultdict(list)
    of_class_token: _ByName = defaultdict(list)
    fixed: _ByName = defaultdict(list)
    massive: _ByName = defaultdict(list)
    for number, layer in enumerate(report.layers, 1):
        each = layer.statistics
        for by_name, features in ((persistent, each.persistent), (of_class_token, each.class_token_persistent)):
            for feature in features:
                by_name[f"feature {feature.feature}"].append((number, feature.frequency, 0.0))
        if (outlier := each.fixed_outlier) is not None:
            fixed[_place(outlier)].append((number, outlier.frequency, outlier.largest_z))
        for place in each.massive:
            massive[_place(place)].append((number, place.frequency, place.value))
    sections = []
    for title, remark, by_name, largest in (
        ("Persistent outlier features", "beyond 6 SD, share of the tokens or positions", persistent, ""),
        ("Persistent in class tokens", "beyond 6 SD, share of the images", of_class_token, ""),
        ("Largest |z| at one place", "in at least half of the images", fixed, ", up to {:.3g} SD"),
        ("Massive activations", "share of the images", massive, ", largest value {:.4g}"),
    ):
        if by_name:
            longest = sorted(by_name.items(), key=lambda item: -len(item[1]))[:IN_A_LIST]
            more = f"; {IN_A_LIST} of {len(by_name)}, the others in JSON" if len(by_name) > IN_A_LIST else ""
            rows = tuple((Cell(feature, "bold"), _in_layers(layers, largest)) for feature, layers in longest)
            sections.append(Section(title, remark + more, (Facts(rows),)))
    return sections


def _place(place: Place) -> str:
    return f"feature {place.feature}" + (f", {place.where}" if place.where else "")


def _in_layers(layers: Sequence[tuple[int, float, float]], largest: str) -> str:
    """Write layers with runs joined. Shares and the largest value follow: layers 3–10, 12, 50 – 60 %."""
    numbers, shares, values = zip(*layers, strict=True)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    named = ", ".join("–".join(map(str, run)) for run in runs)
    share = range_text(percent_text(min(shares)), percent_text(max(shares)), between=" – ")
    return f"layer{'s' * (len(numbers) > 1)} {named}, {share}" + largest.format(max(values, key=abs))
