"""The facts that a report's numbers rest on.

There are facts on model, tensor, preprocessing, images, execution, thresholds; pure.

The HTML page and the terminal lay out the same list: the page gives each fact a row, the terminal puts the short form
of each fact of a block on one line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from robustcheck_onnx.checker.evidence import Origin
from robustcheck_onnx.checker.text import MIB, count_text, number_text, short_provider
from robustcheck_onnx.checker.verdict.pixels import steps_text

from .record import Report, Time
from .words import preprocessing_text

TENSORS = "none: the images were given as preprocessed tensors"
_STOPPED = {  # why the run stopped, on the page and behind a count in the terminal
    "decided": ("as soon as the evidence decided", " until decided"),
    "all images": ("after all images", ""),
    "image limit": ("at the image limit", " up to the limit"),
}


@dataclass(frozen=True)
class Fact:
    """A fact of a report.

    The page shows it where it has a value, the terminal where it has a short form or a caution.
    """

    label: str
    value: str
    remark: str = ""
    """what the page adds in parentheses"""
    kind: Literal["text", "name", "code"] = "text"
    """name: text from outside, shown exactly; code: the same, and the page sets it as code"""
    short: str = ""
    """the fact in a few words, for the terminal"""
    caution: str = ""
    """what the terminal writes before `short`, in yellow"""


@dataclass(frozen=True)
class Block:
    """The facts about one thing, in the page's order."""

    title: str
    label: str
    """the title that the terminal shows"""
    facts: tuple[Fact, ...]
    more: tuple[Fact, ...] = ()
    """facts for the end of the terminal's line; the page says the same elsewhere"""


def blocks_of(report: Report) -> tuple[Block, ...]:
    """Return a report's facts in the page's order."""
    return (
        Block("Model", "model", _model(report)),
        Block("Representation", "tensor", *_tensor(report)),
        Block("Preprocessing", "preprocessing", _preprocessing(report)),
        Block("Images", "images", *_images(report)),
        Block("Execution", "ran on", _execution(report)),
        Block("Judged by", "judged by", _judged(report)),
    )


def _model(report: Report) -> tuple[Fact, ...]:
    m, origin = report.evidence.model, report.evidence.model.origin
    size = f"{m.size_bytes / MIB:.1f} MiB"
    opsets = [f"{version}" + (f" ({domain})" if domain else "") for domain, version in m.opset.items()]
    weights = {None: "no contract says", True: "random", False: "trained, says the contract"}[m.random_weights]
    weights += "; graph or weights changed since the contract was written" if m.file_changed else ""
    return (
        Fact("File", m.file, kind="code"),
        *([_origin(origin)] if origin else []),
        Fact("Digest", m.digest, kind="code"),
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


def _tensor(report: Report) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    m, n_features = report.evidence.model, report.evidence.statistics.n_features
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


def _preprocessing(report: Report) -> tuple[Fact, ...]:
    p = report.evidence.preprocessing
    if p.source == "tensors":
        return (Fact("Steps", TENSORS, short=TENSORS), *_entered(report))
    steps, assumed = preprocessing_text(p.preprocessing), p.source == "assumed"
    overruled = "against the contract in the file" if p.against_contract else ""
    return (
        Fact("Steps", steps, short=steps),
        Fact("Said by", p.source, overruled, short="" if assumed else p.source, caution=p.source if assumed else ""),
        *(Fact(field, value, where) for field, value, where in p.fields),
        *_entered(report),
    )


def _entered(report: Report) -> tuple[Fact, ...]:
    """Return the facts about the graph's input.

    They are the graph's own scaling, and what was measured at its input.
    """
    scaling, levels = report.evidence.model.scaling, report.evidence.levels
    inside = steps_text(scaling) if scaling else ""
    seen = f"mean {_values(levels.mean)}, SD {_values(levels.sd)}" if levels else ""
    return (
        Fact("Scaled inside", inside, "by the graph itself, before its first layer"),
        Fact("Input", seen, "over the images, a channel each"),
    )


def _values(values: tuple[float, ...]) -> str:
    return " ".join(number_text(value) for value in values)


def _images(report: Report) -> tuple[tuple[Fact, ...], tuple[Fact, ...]]:
    i, s = report.evidence.images, report.evidence.statistics
    sanity = i.sanity
    stopped, until = _STOPPED[report.evidence.stopped]
    measured, seed = f"{s.n_images} of {i.n_available}", f"seed {i.seed}"
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
        Fact("Converted", ", ".join(f"{what}: {n}" for what, n in i.notes.items())),
    )
    digest = i.digest
    return facts, (Fact("", "", short=seed), Fact("", "", kind="code", short=digest))


def _execution(report: Report) -> tuple[Fact, ...]:
    run, time = report.evidence.execution, report.time
    provider = short_provider(run.providers[0])
    counts = {short_provider(name): n for name, n in (run.nodes or {}).items()}
    nodes = ", ".join(f"{name} {n}" for name, n in counts.items())
    only = count_text(counts[provider], "node") if list(counts) == [provider] else ""
    ran = only or ", ".join(f"{name} {count_text(n, 'node')}" for name, n in counts.items())
    threads = count_text(run.threads, "thread")
    how = [run.device, threads, run.precision]
    facts = (
        Fact("Asked for", run.requested, short=f"{run.requested} → {provider}" + (f" ({ran})" if ran else "")),
        Fact("Providers", ", ".join(short_provider(p) for p in run.providers)),
        Fact("Fallback", run.fallback_reason),
        Fact("Nodes", nodes or "not told by ONNX Runtime"),
        Fact("Heavy nodes on the CPU", ", ".join(f"{n} {op}" for op, n in run.heavy_on_cpu.items())),
        Fact("Device", run.device, threads, short=", ".join(part for part in how if part)),
        Fact("Precision", run.precision),
        Fact("Graph optimisation", run.optimization),
        Fact("ONNX Runtime", run.runtime, short=f"ONNX Runtime {run.runtime}"),
    )
    if time is None:
        return facts
    return (
        *facts,
        Fact("Started", time.started, f"{number_text(time.wall_s)} s"),
        Fact("Speed", speed_text(time)),
    )


def speed_text(time: Time) -> str:
    """Write images per second, empty where not measured."""
    return "" if time.images_per_s is None else f"{number_text(time.images_per_s)} images/s"


def _judged(report: Report) -> tuple[Fact, ...]:
    verdict, c, binding = report.verdict, report.profile.calibration, report.binding
    digest = verdict.profile_digest
    versions = ", ".join(f"{name} {version}" for name, version in binding.versions.items()) if binding else ""
    sets = f"{c.n_sets} sets of {count_text(c.n_checkpoints, 'checkpoint')}"
    return (
        Fact("Profile", verdict.profile_id, kind="code", short=f"profile {verdict.profile_id}"),
        Fact("Digest", verdict.profile_digest, kind="code", short=digest),
        Fact("Fitted on", sets, short=f"fitted on {c.n_checkpoints} checkpoints"),
        Fact("Changed by hand", report.profile.edited or ""),
        Fact("robustcheck", report.tool_version, short=f"robustcheck {report.tool_version}"),
        Fact("Versions", versions),
        Fact("Report digest", binding.result_digest if binding else "", kind="code"),
    )
