"""Describe what was measured, and how: model, tensor, preprocessing, images, execution and thresholds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..core.evidence import Evidence, Execution, ImageFacts, ModelFacts, Origin, PreprocessingFacts
from ..core.verdict.pixels import steps_text
from ..text import MIB, around, count_text, number_text, short_provider
from .preprocessing import TENSORS, origin_text, preprocessing_text
from .record import Binding, Bound, Time

if TYPE_CHECKING:
    from ...thresholds.context import Context
from .document import Cell, Fact, FactKind, TableRow, Topic, Words, name

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
    fields: list[TableRow] = []
    if p.source != "tensors":
        fields = [
            (Cell(f"{field}: ", "dim"), name(value), Cell(f" ({where})", "dim")) for field, value, where in p.fields
        ]
    topics = [Topic("Model", "model", tuple(_model(evidence.model)), below=external)]
    if published:
        context = f"{published.sentence} Context only: it decides nothing."
        topics.append(Topic("", "published", (), (Fact("", "", short=context),)))
    model = evidence.model
    images = evidence.images
    why = Fact("", "", short=model.why, caution=_assumed(model))
    seed = Fact("", "", short=f"seed {images.seed}")
    digest = Fact("", "", kind="code", short=images.digest)
    skipped = _skipped_and_converted(report, images)
    fallback = _fallback(report, evidence)
    topics += (
        Topic("Representation", "tensor", tuple(_tensor(evidence)), (why,)),
        Topic("Preprocessing", "preprocessing", tuple(_preprocessing(evidence)), below=tuple(fields)),
        Topic("Images", "images", tuple(_images(evidence)), (seed, digest), skipped),
        Topic("Execution", "ran on", tuple(_execution(evidence.execution, report.time)), below=fallback),
        Topic("Judged by", "judged by", tuple(_judged(report, binding))),
    )
    return tuple(topics)


def is_noted(report: Bound, text: str) -> bool:
    """Return whether a note contains this text."""
    return any(text in note for note in report.notes)


def _skipped_and_converted(report: Bound, images: ImageFacts) -> tuple[TableRow, ...]:
    lines: list[TableRow] = []
    if images.n_skipped and not all(is_noted(report, file) for file, _ in images.skipped):
        listed: list[Words] = [Cell(f"{images.n_skipped} skipped: ", "warn")]
        for i, (file, why) in enumerate(images.skipped):
            listed += [", " * (i > 0), name(file), f" ({why})"]
        more = images.n_skipped - len(images.skipped)
        lines.append((*listed, f", and {more} more" if more else ""))
    if images.notes:
        lines.append((f"converted: {_listed(images.notes)}",))
    return tuple(lines)


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _fallback(report: Bound, evidence: Evidence) -> tuple[TableRow, ...]:
    reason = evidence.execution.fallback_reason
    if not reason or is_noted(report, reason):
        return ()
    return ((Cell("fallback: ", "warn"), reason),)


def _alike(label: str, value: str, kind: FactKind = "text") -> Fact:
    """Return a fact that the page and the terminal show alike."""
    return Fact(label, value, kind=kind, short=value)


def _model(m: ModelFacts) -> Iterator[Fact]:
    size = f"{m.size_bytes / MIB:.1f} MiB"
    opsets = [f"{version}{around(' (', domain, ')')}" for domain, version in m.opset.items()]
    weights = {None: "no contract says", True: "random", False: "trained, says the contract"}[m.random_weights]
    if m.file_changed:
        weights += "; graph or weights changed since the contract was written"
    yield _alike("File", m.file, "code")
    if m.origin:
        yield _origin(m.origin)
    yield _alike("Digest", m.digest, "code")
    for file, digest in m.external_digests.items():
        yield Fact("External data", digest, file, kind="code")
    yield _alike("Size", size)
    short = " · ".join(f"opset {opset}" for opset in opsets)
    yield Fact("Opset", ", ".join(opsets), short=short)
    yield _alike("Producer", m.producer, "name")
    yield Fact("Source", m.source, "as the contract says")
    yield Fact("Synthetic", m.synthetic)
    yield Fact("Weights", weights)
    yield Fact("Trained to match", m.matched_to or "not said")


def _origin(origin: Origin) -> Fact:
    """Return where a model was fetched from. A commit is cut for the terminal, as git does."""
    revision = origin.revision
    if re.fullmatch("[0-9a-f]{40}", revision):
        revision = revision[:12]
    remark = f"{origin.revision}, {origin.file}"
    return Fact("Fetched from", origin.address, remark, "code", short=f"fetched at {revision}")


def _tensor(evidence: Evidence) -> Iterator[Fact]:
    m = evidence.model
    n_features = evidence.statistics.n_features
    kind = m.rule
    if m.pool != "none":
        kind += f", pooled by {m.pool}"
    end = str(m.ends_in)
    yield _alike("Tensor", m.tensor, "code")
    yield _alike("Kind", kind)
    yield Fact("Why this one", _assumed(m) + m.why)
    yield Fact("Features", str(n_features), short=count_text(n_features, "feature"))
    yield Fact("Ends in", end, short=around("ends in ", end * bool(m.ends_in.kind)))
    yield _change("with the batch", m.batch_difference)
    if m.fixed_scale_difference is not None:
        yield _change("with the batch, scales fixed", m.fixed_scale_difference)
    yield _change("of the model's output", m.output_difference)


def _assumed(m: ModelFacts) -> str:
    return "assumed: " * m.tensor_assumed


def _change(what: str, difference: float | None) -> Fact:
    """Return how much a representation or an output changes."""
    value = "not checked"
    if difference is not None:
        value = f"{difference:.2g}"
    return Fact(f"Change {what}", value, "largest relative difference")


def _preprocessing(evidence: Evidence) -> Iterator[Fact]:
    p = evidence.preprocessing
    if p.source == "tensors":
        yield _alike("Steps", TENSORS)
    else:
        yield _alike("Steps", preprocessing_text(p.preprocessing))
        yield _stated(p)
        yield from (Fact(field, value, where) for field, value, where in p.fields)
    yield from _entered(evidence)


def _stated(p: PreprocessingFacts) -> Fact:
    """Return what states the preprocessing."""
    origin = origin_text(p)
    if p.source == "assumed":
        return Fact("Source", origin, caution=origin)
    overruled = "against the contract in the file" * p.against_contract
    return Fact("Source", origin, overruled, short=origin)


def _entered(evidence: Evidence) -> Iterator[Fact]:
    """Yield the facts about the graph's input: its own scaling, and what was measured there."""
    scaling = evidence.model.scaling
    levels = evidence.levels
    if scaling:
        yield Fact("Scaled inside", steps_text(scaling), "by the graph itself, before its first layer")
    if levels:
        seen = f"mean {_values(levels.mean)}, SD {_values(levels.sd)}"
        yield Fact("Input", seen, "over the images, a channel each")


def _values(values: tuple[float, ...]) -> str:
    return " ".join(number_text(value) for value in values)


def _images(evidence: Evidence) -> Iterator[Fact]:
    i = evidence.images
    s = evidence.statistics
    sanity = i.sanity
    stopped, until = _STOPPED[evidence.stopped]
    measured = f"{s.n_images} of {i.n_available}"
    skipped = "; ".join(f"{name}: {why}" for name, why in i.skipped)
    converted = [f"{conversion}: {n}" for conversion, n in i.notes.items()]
    if i.bundled:
        yield Fact("Source", "bundled photos", kind="name", short=i.source)
    else:
        yield _alike("Source", i.source, "code")
    yield Fact("Digest", i.digest, kind="code")
    yield Fact("Measured", measured, f"seed {i.seed}", short=f"{measured} measured{until}")
    yield Fact("Stopped", stopped)
    varied = str(sanity.n_varied)
    yield Fact("Varied", varied, f"of {sanity.n_compared} compared", short=f"{varied} varied")
    yield Fact("Duplicates", f"{sanity.n_duplicates} exact, {sanity.n_near_duplicates} near")
    yield Fact("Skipped", str(i.n_skipped), skipped)
    yield Fact("Not usable", f"{s.n_nonfinite} not finite, {s.n_constant} constant", "representations")
    yield Fact("Converted", ", ".join(converted))


def _execution(run: Execution, time: Time | None) -> Iterator[Fact]:
    provider = short_provider(run.providers[0])
    counts = {short_provider(name): n for name, n in (run.nodes or {}).items()}
    ran = _listed({name: count_text(n, "node") for name, n in counts.items()})
    if list(counts) == [provider]:
        ran = count_text(counts[provider], "node")
    threads = count_text(run.threads, "thread")
    how = filter(None, (run.device, threads, run.precision))
    heavy = [f"{n} {operator}" for operator, n in run.heavy_on_cpu.items()]
    sums = run.sums_words
    asked = f"{run.requested} → {provider}"
    yield Fact("Asked for", run.requested, short=f"{asked}{around(' (', ran, ')')}")
    yield Fact("Providers", ", ".join(map(short_provider, run.providers)))
    yield Fact("Fallback", run.fallback_reason)
    yield Fact("Nodes", _listed(counts) or "not told by ONNX Runtime")
    yield Fact("Heavy nodes on the CPU", ", ".join(heavy))
    yield Fact("Device", run.device, threads, short=", ".join(how))
    yield Fact("Precision", run.precision)
    yield Fact("int8 sums", sums, short=around("int8 sums ", sums))
    yield Fact("Graph optimisation", run.optimization)
    yield Fact("ONNX Runtime", run.runtime, short=f"ONNX Runtime {run.runtime}")
    if time:
        wall = f"{number_text(time.wall_s)} s"
        yield Fact("Started", time.started, wall, short=f"{time.started}, {wall}")
        yield _alike("Speed", speed_text(time))


def speed_text(time: Time) -> str:
    """Write images per second, empty where not measured."""
    return "" if time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"


def _judged(report: Bound, binding: Binding | None) -> Iterator[Fact]:
    verdict = report.verdict
    c = report.profile.calibration
    sets = f"{c.n_sets} sets of {count_text(c.n_checkpoints, 'checkpoint')}"
    yield Fact("Profile", verdict.profile_id, kind="code", short=f"profile {verdict.profile_id}")
    yield _alike("Digest", verdict.profile_digest, "code")
    yield Fact("Fitted on", sets, short=f"fitted on {c.n_checkpoints} checkpoints")
    yield Fact("robustcheck", report.tool_version, short=f"robustcheck {report.tool_version}")
    if binding:
        yield Fact("Versions", _listed(binding.versions))
        yield Fact("Report digest", binding.result_digest, kind="code")
