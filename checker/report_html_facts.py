"""What the HTML report tells of a run's circumstances: model, tensor, preprocessing, images, execution; pure."""

from __future__ import annotations

from dataclasses import dataclass

from robustcheck_onnx.checker import report_parts as parts
from robustcheck_onnx.checker.reasons import number_text
from robustcheck_onnx.checker.report import Report

STOPPED = {
    "decided": "as soon as the evidence decided",
    "all images": "after all images",
    "image limit": "at the image limit",
}


@dataclass(frozen=True)
class Fact:
    """One circumstance."""

    label: str
    value: str
    remark: str = ""
    code: bool = False
    """a digest or a name from a file: shown letter by letter"""


@dataclass(frozen=True)
class Block:
    """Facts about one thing."""

    title: str
    facts: tuple[Fact, ...]


def blocks_of(report: Report) -> tuple[Block, ...]:
    """Everything that the numbers rest on, so that a run can be repeated."""
    return (
        Block("Model", _model(report)),
        Block("Representation", _tensor(report)),
        Block("Preprocessing", _preprocessing(report)),
        Block("Images", _images(report)),
        Block("Execution", _execution(report)),
        Block("Judged by", _judged(report)),
    )


def _only(*found: Fact | None) -> tuple[Fact, ...]:
    return tuple(fact for fact in found if fact is not None and fact.value)


def _model(report: Report) -> tuple[Fact, ...]:
    m = report.evidence.model
    opset = ", ".join(f"{version}" + (f" ({domain})" if domain else "") for domain, version in m.opset.items())
    weights = {None: "no contract says", True: "random", False: "trained, says the contract"}[m.random_weights]
    return _only(
        Fact("File", m.file, code=True),
        Fact("Digest", m.digest, code=True),
        *(Fact("External data", digest, file, code=True) for file, digest in m.external_digests.items()),
        Fact("Size", f"{m.size_bytes / parts.MIB:.1f} MiB"),
        Fact("Opset", opset),
        Fact("Producer", m.producer),
        Fact("Source", m.source, "as the contract says"),
        Fact("Synthetic", m.synthetic),
        Fact("Weights", weights),
    )


def _tensor(report: Report) -> tuple[Fact, ...]:
    m, s = report.evidence.model, report.evidence.statistics
    return _only(
        Fact("Tensor", m.tensor, code=True),
        Fact("Kind", m.rule if m.pool == "none" else f"{m.rule}, pooled by {m.pool}"),
        Fact("Why this one", f"assumed: {m.why}" if m.tensor_assumed else m.why),
        Fact("Features", str(s.n_features)),
        Fact("Ends in", m.ends_in),
        Fact("Change with the batch", _difference(m.batch_difference), "largest relative difference"),
        Fact("Change of the own output", _difference(m.output_difference), "largest relative difference"),
    )


def _difference(value: float | None) -> str:
    return "not checked" if value is None else f"{value:.2g}"


def _preprocessing(report: Report) -> tuple[Fact, ...]:
    p = report.evidence.preprocessing
    if p.source == "tensors":
        return (Fact("Steps", "none: the images were given as preprocessed tensors"),)
    return _only(
        Fact("Steps", parts.preprocessing_text(p.preprocessing)),
        Fact("Said by", p.source, "against the contract in the file" if p.against_contract else ""),
        *(Fact(field, value, where) for field, value, where in p.fields),
    )


def _images(report: Report) -> tuple[Fact, ...]:
    i, s = report.evidence.images, report.evidence.statistics
    sanity = i.sanity
    skipped = "; ".join(f"{name}: {why}" for name, why in i.skipped)
    return _only(
        Fact("Source", "bundled photos" if i.bundled else i.source, code=not i.bundled),
        Fact("Digest", i.digest, code=True),
        Fact("Measured", f"{s.n_images} of {i.n_available}", f"seed {i.seed}"),
        Fact("Stopped", STOPPED[report.evidence.stopped]),
        Fact("Varied", str(sanity.n_varied), f"of {sanity.n_compared} compared"),
        Fact("Duplicates", f"{sanity.n_duplicates} exact, {sanity.n_near_duplicates} near"),
        Fact("Skipped", str(i.n_skipped), skipped),
        Fact("Not usable", f"{s.n_nonfinite} not finite, {s.n_constant} constant", "representations"),
        Fact("Converted", ", ".join(f"{what}: {n}" for what, n in i.notes.items())),
    )


def _execution(report: Report) -> tuple[Fact, ...]:
    run, time = report.evidence.execution, report.time
    nodes = ", ".join(f"{parts.short_provider(p)} {n}" for p, n in (run.nodes or {}).items())
    heavy = ", ".join(f"{n} {op}" for op, n in run.heavy_on_cpu.items())
    cached = f"measured {time.cached}" if time and time.cached else ""
    speed = "" if time is None or time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"
    return _only(
        Fact("Asked for", run.requested),
        Fact("Providers", ", ".join(parts.short_provider(p) for p in run.providers)),
        Fact("Fallback", run.fallback_reason),
        Fact("Nodes", nodes or "not told by ONNX Runtime"),
        Fact("Heavy nodes on the CPU", heavy),
        Fact("Device", run.device, parts.count_text(run.threads, "thread")),
        Fact("Precision", run.precision),
        Fact("Graph optimisation", run.optimization),
        Fact("ONNX Runtime", run.runtime),
        Fact("Engine", run.engine, parts.count_text(run.workers, "worker")) if run.engine else None,
        Fact("Started", time.started, f"{number_text(time.wall_s)} s") if time else None,
        Fact("Speed", speed),
        Fact("From the cache", cached, "nothing has changed since"),
    )


def _judged(report: Report) -> tuple[Fact, ...]:
    c = report.profile.calibration
    binding = report.binding
    return _only(
        Fact("Profile", report.verdict.profile_id, code=True),
        Fact("Digest", report.verdict.profile_digest, code=True),
        Fact("Fitted on", f"{c.n_sets} sets of {parts.count_text(c.n_checkpoints, 'checkpoint')}"),
        Fact("False PASS at most", parts.percent_text(c.false_pass_upper), "of unseen checkpoints, 95 % confidence"),
        Fact("Changed by hand", report.profile.edited or ""),
        Fact("robustcheck", report.tool_version),
        Fact("Versions", ", ".join(f"{k} {v}" for k, v in binding.versions.items())) if binding else None,
        Fact("Report digest", binding.result_digest, code=True) if binding else None,
    )
