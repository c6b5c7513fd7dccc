"""What a report says of how its numbers were made: model, tensor, preprocessing, images, execution, profile; pure."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from robustcheck_onnx.checker.text import MIB, count_text, number_text, percent_text, short_digest, short_provider

from . import words
from .layout import Pen, line
from .record import Report

MAX_SKIPPED = 3  # skipped images named; all that the evidence names with `verbose`
_STOPPED = {
    "decided": " until decided",
    "all images": "",
    "image limit": " up to the limit",
}


def _noted(report: Report, text: str) -> bool:
    """Whether a note of the report says it already."""
    return any(text in note for note in report.notes)


def terminal_model(report: Report, pen: Pen) -> list[Text]:
    """Size, opset, producer and external weights of the model."""
    model = report.evidence.model
    facts = [pen.say(f"{model.size_bytes / MIB:.1f} MiB")]
    facts += [pen.say(f"opset {v}" + (f" ({domain})" if domain else "")) for domain, v in model.opset.items()]
    if model.producer:
        facts.append(pen.name(model.producer))
    external = [pen.name(f"{file} {digest}") for file, digest in model.external_digests.items()]
    return [pen.facts(facts), *external]


def terminal_tensor(report: Report, pen: Pen) -> list[Text]:
    """The measured tensor, and why that one."""
    model, s = report.evidence.model, report.evidence.statistics
    why = pen.say("assumed: ", "yellow") if model.tensor_assumed else Text()
    facts = [
        pen.name(model.tensor),
        pen.say(model.rule if model.pool == "none" else f"{model.rule}, pooled by {model.pool}"),
        pen.say(count_text(s.n_features, "feature")),
        pen.say(f"ends in {model.ends_in}" if model.ends_in.kind else ""),
        line(why, pen.say(model.why)),
    ]
    return [pen.facts(facts)]


def terminal_preprocessing(report: Report, pen: Pen, verbose: bool) -> list[Text]:
    """How images became inputs, and where that is said."""
    facts = report.evidence.preprocessing
    if facts.source == "tensors":
        return [pen.say("none: the images were given as preprocessed tensors")]
    source = pen.say(facts.source, "yellow" if facts.source == "assumed" else "")
    lines = [pen.facts([pen.say(words.preprocessing_text(facts.preprocessing)), source])]
    if verbose:
        lines += [
            line(pen.say(f"{field}: ", "dim"), pen.name(value), pen.say(f" ({where})", "dim"))
            for field, value, where in facts.fields
        ]
    return lines


def terminal_images(report: Report, pen: Pen, verbose: bool) -> list[Text]:
    """The image set, what was skipped, and where the run stopped."""
    images, s = report.evidence.images, report.evidence.statistics
    facts = [
        pen.name(images.source),
        pen.say(f"{s.n_images} of {images.n_available} measured{_STOPPED[report.evidence.stopped]}"),
        pen.say(f"{images.sanity.n_varied} varied"),
        pen.say(f"seed {images.seed}"),
        pen.name(images.digest if verbose else short_digest(images.digest)),
    ]
    lines = [pen.facts(facts)]
    if images.n_skipped and (verbose or not all(_noted(report, name) for name, _ in images.skipped[:1])):
        names = images.skipped if verbose else images.skipped[:MAX_SKIPPED]
        listed = [line(pen.name(name), pen.say(f" ({why})")) for name, why in names]
        if images.n_skipped > len(names):
            listed.append(pen.say(f"and {images.n_skipped - len(names)} more"))
        lines.append(line(pen.say(f"{images.n_skipped} skipped: ", "yellow"), pen.say(", ").join(listed)))
    if images.notes:
        lines.append(pen.say("converted: " + ", ".join(f"{what} {n}" for what, n in images.notes.items())))
    return lines


def terminal_execution(report: Report, pen: Pen) -> list[Text]:
    """Device, providers, time."""
    run, time = report.evidence.execution, report.time
    nodes, provider = run.nodes or {}, run.providers[0]
    counts = ", ".join(f"{short_provider(p)} {count_text(n, 'node')}" for p, n in nodes.items())
    if list(nodes) == [provider]:
        counts = count_text(nodes[provider], "node")
    how = [run.device, count_text(run.threads, "thread"), run.precision]
    if run.engine:
        how.append(f"{run.engine} with {count_text(run.workers, 'worker')}")
    facts = [
        pen.say(f"{run.requested} → {short_provider(provider)}" + (f" ({counts})" if counts else "")),
        pen.say(", ".join(fact for fact in how if fact)),
        pen.say(f"ONNX Runtime {run.runtime}"),
    ]
    lines = [pen.facts(facts)]
    if run.fallback_reason and not _noted(report, run.fallback_reason):
        lines.append(line(pen.say("fallback: ", "yellow"), pen.say(run.fallback_reason)))
    if time is not None:
        speed = "" if time.images_per_s is None else f", {number_text(time.images_per_s)} images/s"
        kept = "" if time.cached is None else f" · from the cache: measured {time.cached}, nothing has changed since"
        lines.append(pen.say(f"{time.started}, {number_text(time.wall_s)} s{speed}{kept}"))
    return lines


def terminal_profile(report: Report, pen: Pen, verbose: bool) -> list[Text]:
    """The threshold profile."""
    verdict, calibration = report.verdict, report.profile.calibration
    facts = [
        line(pen.say("profile "), pen.name(verdict.profile_id)),
        pen.name(verdict.profile_digest if verbose else short_digest(verdict.profile_digest)),
        pen.say(f"fitted on {calibration.n_checkpoints} checkpoints"),
        pen.say(f"robustcheck {report.tool_version}"),
    ]
    return [pen.facts(facts)]


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
        Fact("Size", f"{m.size_bytes / MIB:.1f} MiB"),
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
        Fact("Ends in", str(m.ends_in)),
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
        Fact("Steps", words.preprocessing_text(p.preprocessing)),
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
    nodes = ", ".join(f"{short_provider(p)} {n}" for p, n in (run.nodes or {}).items())
    heavy = ", ".join(f"{n} {op}" for op, n in run.heavy_on_cpu.items())
    cached = f"measured {time.cached}" if time and time.cached else ""
    speed = "" if time is None or time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"
    return _only(
        Fact("Asked for", run.requested),
        Fact("Providers", ", ".join(short_provider(p) for p in run.providers)),
        Fact("Fallback", run.fallback_reason),
        Fact("Nodes", nodes or "not told by ONNX Runtime"),
        Fact("Heavy nodes on the CPU", heavy),
        Fact("Device", run.device, count_text(run.threads, "thread")),
        Fact("Precision", run.precision),
        Fact("Graph optimisation", run.optimization),
        Fact("ONNX Runtime", run.runtime),
        Fact("Engine", run.engine, count_text(run.workers, "worker")) if run.engine else None,
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
        Fact("Fitted on", f"{c.n_sets} sets of {count_text(c.n_checkpoints, 'checkpoint')}"),
        Fact("False PASS at most", percent_text(c.false_pass_upper), "of unseen checkpoints, 95 % confidence"),
        Fact("Changed by hand", report.profile.edited or ""),
        Fact("robustcheck", report.tool_version),
        Fact("Versions", ", ".join(f"{k} {v}" for k, v in binding.versions.items())) if binding else None,
        Fact("Report digest", binding.result_digest, code=True) if binding else None,
    )
