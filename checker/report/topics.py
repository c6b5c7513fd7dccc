"""Describe what was measured, and how: model, tensor, preprocessing, images, execution and thresholds. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ..core.evidence import Evidence, Execution, ImageFacts, ModelFacts, Origin
from ..core.verdict.pixels import steps_text
from ..text import MIB, count_text, number_text, short_provider
from .preprocessing import TENSORS, origin_text, preprocessing_text
from .record import Binding, Bound, Time

if TYPE_CHECKING:
    from ...thresholds.context import Context
from .document import Cell, Fact, Topic, Words, name

_STOPPED = {  # why the run stopped, on the page and behind a count in the terminal
    "decided": ("as soon as the evidence decided", " until decided"),
    "all images": ("after all images", ""),
    "image limit": ("at the image limit", " up to the limit"),
}


def topics_of(
    report: Bound, evidence: Evidence, *, binding: Binding | None = None, published: Context | None = None
) -> tuple[Topic, ...]:
    """Return what was measured, and how, in the page's order.

    Args:
        report: the record that the evidence belongs to.
        evidence: of a model.
        binding: of a report about this model alone.
        published: what is known of its checkpoint.
    """
    p = evidence.preprocessing
    external = tuple((name(f"{file} {digest}"),) for file, digest in evidence.model.external_digests.items())
    fields = tuple(
        (Cell(f"{field}: ", "dim"), name(value), Cell(f" ({where})", "dim"))
        for field, value, where in (() if p.source == "tensors" else p.fields)
    )
    context = f"{published.sentence} Context only: it decides nothing." if published else ""
    return (
        Topic("Model", "model", _model(evidence.model), below=external),
        *([Topic("", "published", (), (Fact("", "", short=context),))] if published else []),
        Topic("Representation", "tensor", *_tensor(evidence)),
        Topic("Preprocessing", "preprocessing", _preprocessing(evidence), below=fields),
        Topic("Images", "images", *_images(evidence), _skipped_and_converted(report, evidence.images)),
        Topic("Execution", "ran on", _execution(evidence.execution, report.time), below=_fallback(report, evidence)),
        Topic("Judged by", "judged by", _judged(report, binding)),
    )


def is_noted(report: Bound, text: str) -> bool:
    """Return whether a note contains this text."""
    return any(text in note for note in report.notes)


def _skipped_and_converted(report: Bound, images: ImageFacts) -> tuple[tuple[Words, ...], ...]:
    lines: list[tuple[Words, ...]] = []
    if images.n_skipped and not all(is_noted(report, file) for file, _ in images.skipped):
        listed: list[Words] = [Cell(f"{images.n_skipped} skipped: ", "warn")]
        for i, (file, why) in enumerate(images.skipped):
            listed += [", " * (i > 0), name(file), f" ({why})"]
        more = images.n_skipped - len(images.skipped)
        lines.append((*listed, f", and {more} more" if more else ""))
    if images.notes:
        lines.append(("converted: " + ", ".join(f"{conversion} {n}" for conversion, n in images.notes.items()),))
    return tuple(lines)


def _fallback(report: Bound, evidence: Evidence) -> tuple[tuple[Words, ...], ...]:
    reason = evidence.execution.fallback_reason
    return ((Cell("fallback: ", "warn"), reason),) if reason and not is_noted(report, reason) else ()


def _model(m: ModelFacts) -> tuple[Fact, ...]:
    size = f"{m.size_bytes / MIB:.1f} MiB"
    opsets = [f"{version}" + (f" ({domain})" if domain else "") for domain, version in m.opset.items()]
    weights = {None: "no contract says", True: "random", False: "trained, says the contract"}[m.random_weights]
    weights += "; graph or weights changed since the contract was written" if m.file_changed else ""
    return (
        Fact("File", m.file, kind="code", short=m.file),
        *([_origin(m.origin)] if m.origin else []),
        Fact("Digest", m.digest, kind="code", short=m.digest),
        *(Fact("External data", digest, file, kind="code") for file, digest in m.external_digests.items()),
        Fact("Size", size, short=size),
        Fact("Opset", ", ".join(opsets), short=" · ".join(f"opset {opset}" for opset in opsets)),
        Fact("Producer", m.producer, kind="name", short=m.producer),
        Fact("Source", m.source, "as the contract says"),
        Fact("Synthetic", m.synthetic),
        Fact("Weights", weights),
        Fact("Trained to match", m.matched_to or "not said"),
    )


def _origin(origin: Origin) -> Fact:
    """Return where a model was fetched from. A commit is cut for the terminal, as git does."""
    revision = origin.revision[:12] if re.fullmatch("[0-9a-f]{40}", origin.revision) else origin.revision
    remark = f"{origin.revision}, {origin.file}"
    return Fact("Fetched from", origin.address, remark, "code", short=f"fetched at {revision}")


def _tensor(evidence: Evidence) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    m = evidence.model
    n_features = evidence.statistics.n_features
    kind = m.rule if m.pool == "none" else f"{m.rule}, pooled by {m.pool}"
    assumed = "assumed: " if m.tensor_assumed else ""
    facts = (
        Fact("Tensor", m.tensor, kind="code", short=m.tensor),
        Fact("Kind", kind, short=kind),
        Fact("Why this one", assumed + m.why),
        Fact("Features", str(n_features), short=count_text(n_features, "feature")),
        Fact("Ends in", str(m.ends_in), short=f"ends in {m.ends_in}" if m.ends_in.kind else ""),
        Fact("Change with the batch", _difference(m.batch_difference), "largest relative difference"),
        *(
            [Fact("Change with the batch, scales fixed", _difference(fixed), "largest relative difference")]
            if (fixed := m.fixed_scale_difference) is not None
            else []
        ),
        Fact("Change of the model's output", _difference(m.output_difference), "largest relative difference"),
    )
    return facts, (Fact("", "", short=m.why, caution=assumed),)


def _difference(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.2g}"


def _preprocessing(evidence: Evidence) -> tuple[Fact, ...]:
    p = evidence.preprocessing
    if p.source == "tensors":
        return (Fact("Steps", TENSORS, short=TENSORS), *_entered(evidence))
    steps = preprocessing_text(p.preprocessing)
    assumed = p.source == "assumed"
    origin = origin_text(p)
    overruled = "against the contract in the file" if p.against_contract else ""
    return (
        Fact("Steps", steps, short=steps),
        Fact("Source", origin, overruled, short="" if assumed else origin, caution=origin if assumed else ""),
        *(Fact(field, value, where) for field, value, where in p.fields),
        *_entered(evidence),
    )


def _entered(evidence: Evidence) -> tuple[Fact, ...]:
    """Return the facts about the graph's input: its own scaling, and what was measured there."""
    scaling = evidence.model.scaling
    levels = evidence.levels
    inside = steps_text(scaling) if scaling else ""
    seen = f"mean {_values(levels.mean)}, SD {_values(levels.sd)}" if levels else ""
    return (
        Fact("Scaled inside", inside, "by the graph itself, before its first layer"),
        Fact("Input", seen, "over the images, a channel each"),
    )


def _values(values: tuple[float, ...]) -> str:
    return " ".join(number_text(value) for value in values)


def _images(evidence: Evidence) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    i = evidence.images
    s = evidence.statistics
    sanity = i.sanity
    stopped, until = _STOPPED[evidence.stopped]
    measured = f"{s.n_images} of {i.n_available}"
    seed = f"seed {i.seed}"
    skipped = "; ".join(f"{name}: {why}" for name, why in i.skipped)
    source = "bundled photos" if i.bundled else i.source
    facts = (
        Fact("Source", source, kind="name" if i.bundled else "code", short=i.source),
        Fact("Digest", i.digest, kind="code"),
        Fact("Measured", measured, seed, short=f"{measured} measured{until}"),
        Fact("Stopped", stopped),
        Fact("Varied", str(sanity.n_varied), f"of {sanity.n_compared} compared", short=f"{sanity.n_varied} varied"),
        Fact("Duplicates", f"{sanity.n_duplicates} exact, {sanity.n_near_duplicates} near"),
        Fact("Skipped", str(i.n_skipped), skipped),
        Fact("Not usable", f"{s.n_nonfinite} not finite, {s.n_constant} constant", "representations"),
        Fact("Converted", ", ".join(f"{conversion}: {n}" for conversion, n in i.notes.items())),
    )
    return facts, (Fact("", "", short=seed), Fact("", "", kind="code", short=i.digest))


def _execution(run: Execution, time: Time | None) -> tuple[Fact, ...]:
    provider = short_provider(run.providers[0])
    counts = {short_provider(name): n for name, n in (run.nodes or {}).items()}
    nodes = ", ".join(f"{name} {n}" for name, n in counts.items())
    only = count_text(counts[provider], "node") if list(counts) == [provider] else ""
    ran = only or ", ".join(f"{name} {count_text(n, 'node')}" for name, n in counts.items())
    threads = count_text(run.threads, "thread")
    how = [run.device, threads, run.precision]
    sums = run.sums_words
    facts = (
        Fact("Asked for", run.requested, short=f"{run.requested} → {provider}" + (f" ({ran})" if ran else "")),
        Fact("Providers", ", ".join(short_provider(p) for p in run.providers)),
        Fact("Fallback", run.fallback_reason),
        Fact("Nodes", nodes or "not told by ONNX Runtime"),
        Fact("Heavy nodes on the CPU", ", ".join(f"{n} {op}" for op, n in run.heavy_on_cpu.items())),
        Fact("Device", run.device, threads, short=", ".join(part for part in how if part)),
        Fact("Precision", run.precision),
        Fact("int8 sums", sums, short=f"int8 sums {sums}" if sums else ""),
        Fact("Graph optimisation", run.optimization),
        Fact("ONNX Runtime", run.runtime, short=f"ONNX Runtime {run.runtime}"),
    )
    if time is None:
        return facts
    wall = f"{number_text(time.wall_s)} s"
    return (
        *facts,
        Fact("Started", time.started, wall, short=f"{time.started}, {wall}"),
        Fact("Speed", speed_text(time), short=speed_text(time)),
    )


def speed_text(time: Time) -> str:
    """Write images per second, empty where not measured."""
    return "" if time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"


def _judged(report: Bound, binding: Binding | None) -> tuple[Fact, ...]:
    verdict = report.verdict
    c = report.profile.calibration
    digest = verdict.profile_digest
    versions = ", ".join(f"{name} {version}" for name, version in binding.versions.items()) if binding else ""
    sets = f"{c.n_sets} sets of {count_text(c.n_checkpoints, 'checkpoint')}"
    return (
        Fact("Profile", verdict.profile_id, kind="code", short=f"profile {verdict.profile_id}"),
        Fact("Digest", verdict.profile_digest, kind="code", short=digest),
        Fact("Fitted on", sets, short=f"fitted on {c.n_checkpoints} checkpoints"),
        Fact("robustcheck", report.tool_version, short=f"robustcheck {report.tool_version}"),
        Fact("Versions", versions),
        Fact("Report digest", binding.result_digest if binding else "", kind="code"),
    )
