"""What `robustcheck shift --target` shows: predicted accuracies with what they assume, dispersion (pure)."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from robustcheck_onnx.checker.report import Pen, bullets, columns, labelled, section
from robustcheck_onnx.checker.text import percent_text

from .predictions import NAMES, Predicted, Target
from .records import SetResult


def blocks(pen: Pen, predicted: Predicted, inner: SetResult) -> list[RenderableType]:
    """The sections on unlabelled sets: predictions with what each method assumes, agreement lines, dispersion."""
    return [
        _predictions(pen, predicted, inner),
        *([_models(pen, predicted)] if predicted.beside else []),
        *([_dispersion(pen, predicted, inner)] if _has_dispersion(predicted) else []),
    ]


def _has_dispersion(predicted: Predicted) -> bool:
    return predicted.dispersion is not None and any(each.dispersion for each in predicted.targets)


def _predictions(pen: Pen, predicted: Predicted, inner: SetResult) -> RenderableType:
    table = columns(pen, "target", ">images", "=method", ">top-1", "=interval", ">points")
    missing = []
    for target in predicted.targets:
        name, images = pen.name(target.name), str(target.n_images)
        for each in target.estimates:
            value, bounds, points = "–", "not established", ""
            if each.accuracy is not None and each.low is not None and each.high is not None:
                value, bounds = percent_text(each.accuracy), f"{100 * each.low:.1f} – {100 * each.high:.1f}"
                points = f"{-(each.drop_points or 0):+.1f}"
            table.add_row(
                name,
                pen.say(images),
                pen.say(NAMES[each.method]),
                pen.say(value, "bold"),
                pen.say(bounds),
                pen.say(points),
            )
            name, images = Text(), ""
        if target.measured is not None:
            found = target.measured
            table.add_row(
                Text(),
                Text(),
                pen.say("measured", "dim"),
                pen.say(percent_text(found.value), "bold"),
                pen.say(f"{100 * found.low:.1f} – {100 * found.high:.1f}"),
                pen.say(f"{100 * (found.value - inner.accuracy.value):+.1f}"),
            )
        missing += _missing(target)
    assumes = {NAMES[each.method]: each.assumes for target in predicted.targets for each in target.estimates}
    start = (
        f"starts from {percent_text(inner.accuracy.value)} on {inner.accuracy.n} labelled images of {inner.name}, "
        f"{inner.n_labels} of {inner.n_compete} classes"
    )
    if predicted.temperature is not None:
        start += f"; temperature {predicted.temperature.value:.3g}"
    body: list[RenderableType] = [table, pen.say(start, "dim")]
    if missing:
        body += [Text(), bullets(pen, missing)]
    body += [Text(), pen.say("each number is right only if", "dim"), labelled(pen, assumes.items())]
    body.append(pen.prose(predicted.claim, "dim"))
    return section(pen, "Predicted accuracy, without labels", "95 % bootstrap intervals", *body)


def _missing(target: Target) -> list[str]:
    """Why there is no number, once a reason."""
    reasons: dict[str, list[str]] = {}
    for each in target.estimates:
        if each.not_established:
            reasons.setdefault(each.not_established, []).append(NAMES[each.method])
    return [f"{target.name}: {', '.join(methods)} not established: {why}." for why, methods in reasons.items()]


def _models(pen: Pen, predicted: Predicted) -> RenderableType:
    models = columns(pen, "model", ">top-1", "=preprocessing from")
    for each in predicted.beside:
        models.add_row(
            pen.name(each.file), pen.say(percent_text(each.accuracy.value)), pen.say(each.preprocessing_source)
        )
    lines = columns(pen, "target", ">R²", ">slope", ">intercept", ">pairs")
    for target in predicted.targets:
        if target.line is not None:
            numbers = (target.line.r_squared, target.line.slope, target.line.intercept)
            cells = [pen.say(f"{number:.2f}") for number in numbers]
            lines.add_row(pen.name(target.name), *cells, pen.say(str(target.line.n_pairs)))
    return section(pen, "Agreement on the line", "probit scale", models, Text(), lines)


def _dispersion(pen: Pen, predicted: Predicted, inner: SetResult) -> RenderableType:
    """The sets from the most certain and varied predictions to the least."""
    table = columns(pen, "set", ">nuclear norm", ">MaNo")
    sets = [(inner.name, predicted.dispersion), *((each.name, each.dispersion) for each in predicted.targets)]
    known = [(name, each) for name, each in sets if each is not None]
    for name, each in sorted(known, key=lambda pair: -pair[1].nuclear_norm):
        table.add_row(
            pen.name(name) + pen.say("  in-distribution" if each is predicted.dispersion else "", "dim"),
            pen.say(f"{each.nuclear_norm:.3f}"),
            pen.say("–" if each.mano is None else f"{each.mano:.3f}"),
        )
    remark = f"a ranking, no accuracy; of {predicted.n_dispersion} images each"
    return section(pen, "Dispersion of the predictions", remark, table)
