"""The verbs that measure: `check`, the default, `compare`, `scan`, `shift`, `concepts` and `directions`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from ...core.model_size import MAX_MODEL_SIZE
from ...errors import CannotAssessError, UsageError
from ...text import Texts, as_json, quoted
from .. import process
from ..confinement import check_outputs, refuse_unsafe
from ..destinations import check_extra
from ..options import (
    FORMATS,
    IMAGES,
    MODEL,
    OUTPUT,
    ROWS,
    VECTORS,
    VERDICT,
    Model,
    Several,
    argument,
    one_of,
    option,
    path_of,
)
from ..output import ascii_only, console_for
from . import AS_FOR_A_CHECK, Call, Question, question, takes

Baseline = Annotated[
    Literal["timm", "testbed"],
    option("Published models that effective robustness is measured against: timm or testbed.", "NAME", VERDICT),
]


@takes(
    *ROWS,
    models=argument(
        "ONNX files, folders (every .onnx file below), quoted globs, or addresses: hf://org/repo, "
        "models:/name/3 and others. The last argument may be the photos, instead of --images.",
        "MODEL.onnx",
    ),
)
def check(call: Call, models: Several = None) -> int:
    """Check models: PASS, or WARN with reasons. The default command."""
    from ...outside import isolation

    line = call.settings
    if line.show_settings and models:
        raise UsageError(
            f"MODEL.onnx is {models[0]}; --show-settings checks no model, and its exit code 0 is not a PASS",
            "robustcheck check --show-settings",
        )
    if line.show_settings and line.strict:
        raise UsageError(
            "--show-settings is given with --strict, where exit code 0 is always a verdict; it checks no model",
            "robustcheck check --show-settings",
        )
    if not models and not line.show_settings:
        raise UsageError("MODEL.onnx is missing; robustcheck check needs it", "robustcheck check --help")
    if line.isolated:
        os.environ.pop(MAX_MODEL_SIZE, None)  # the child would heed it
    if not models:
        return _show(call, *line.output[-1:])
    with isolation.Wall() as wall:
        from ..named_models import split_images  # while the child process starts
        from ..plan import plan_of
        from ..run import run
        from ..settings import of_check, refuse_loosening

        words, photos = split_images(models, images_typed=line.images is not None, strict=line.strict)
        if photos:
            call.typed["images"] = photos
        resolved = of_check(line, call.typed)
        if line.strict:
            refuse_loosening(resolved, call.invocation.line)
        call.invocation.annotates = not resolved.settings.no_ci
        return run(plan_of(words, resolved), call.invocation, wall)


def _show(call: Call, form: str = "terminal") -> int:
    """Write each setting with value and source to stdout."""
    from rich.console import Group

    from ...report.terminal import Pen, Trimmed, columns
    from .. import settings

    one_of("--output", form, FORMATS)
    resolved = settings.of_check(call.settings, call.typed)
    document = settings.settings_json(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = columns(pen, "=setting", "value", "source")
    for key, entry in document["settings"].items():
        text = settings.value_text(key, entry["value"])
        source = entry["source"]
        style = "dim" if source == settings.DEFAULT else "bold"
        table.add_row(pen.say(key), pen.name(text), pen.name(source, style))
    console.print(Trimmed(Group(table, pen.name(f"file: {resolved.file or 'none'}"))))
    return 0


PER_SET = {"help": "Stop after this many images of each set."}


@question(
    forms=("terminal", "json", "junit", "markdown", "sarif", "html", "openmetrics", "predicate"),
    without=("tensor", "pool"),
    images=AS_FOR_A_CHECK,
    max_images={"default": 1000},
    thresholds={},
    offline={},
    no_thumbnails={},
    no_ci={},
    strict={"help": "For a pipeline: needs --images, and -- before the models. No settings file is read in any case."},
    candidate=argument(
        "The ONNX file to release, or an address: hf://org/repo, models:/name/3 and others.", "CANDIDATE.onnx"
    ),
    reference=argument("The model that it was made from: a file or an address, too.", "REFERENCE.onnx"),
    baseline=option(
        "Instead of REFERENCE.onnx: the file that --write-baseline of an earlier release wrote.", "FILE", VERDICT
    ),
    write_baseline=option(
        "Write the candidate's numbers, to compare later releases with; needs no reference. A file that ends in .npz "
        "gets the vectors of the photos, too.",
        "FILE",
        OUTPUT,
    ),
    tolerance=option(
        "Largest share of each statistic of the reference that may be lost, from 0 to below 1.", "SHARE", VERDICT
    ),
    index=option(
        "Look for neighbours in this index, too, and test whether the reference made it: .npy, .npz, .safetensors or "
        ".parquet. Without a reference: test whether CANDIDATE.onnx made it. Of several arrays the vectors are named "
        "vectors, embeddings, representations, embedding or vector; the file names of the photos, if it has them, ids, "
        "id, names or name.",
        "FILE",
        VECTORS,
    ),
    accept_untested_index=option(
        "Allow compatible where too few photos are in the index to test whether the reference made it.", None, VECTORS
    ),
    text=option("Embeddings of classes: does the most similar class of each image stay?", "FILE", VECTORS),
    metric=option(
        "What orders neighbours in your index: cosine, dot or euclidean. Default: cosine, and lengths must stay.",
        "NAME",
        VECTORS,
    ),
    min_cosine=option(
        "Cosine of the same image that the worst 5 % of the images must keep.", "COSINE", VECTORS, min=0, max=1
    ),
    min_recall=option(
        "Share of the 10 nearest neighbours, and of the top-1 classes, that must stay.", "SHARE", VECTORS, min=0, max=1
    ),
    require=option(
        "What must hold for exit code 0: indication (PASS), index (compatible), or both. Default: indication.",
        "VERDICT",
        VERDICT,
    ),
)
def compare(
    call: Question,
    candidate: str,
    reference: str | None = None,
    baseline: Path | None = None,
    write_baseline: Path | None = None,
    tolerance: float = 0.2,
    index: Path | None = None,
    accept_untested_index: bool = False,
    text: Path | None = None,
    metric: Literal["cosine", "dot", "euclidean"] | None = None,
    min_cosine: float = 0.9,
    min_recall: float = 0.8,
    require: Several = None,
) -> int:
    """Show whether a model kept the outlier features of its original.

    For finetuned, pruned, quantised or converted models. PASS when the candidate passes the check by itself and has
    kept the outlier features that made the reference pass. The index verdict is about an index of the original's
    vectors: compatible, re-embed or undecided. It counts with --require index. Without a reference
    --index shows whether its vectors are the candidate's own, and that decides the exit code; --write-baseline alone
    gives no verdict: 0 is not a PASS.
    """
    from ...outside import isolation
    from ...questions.compare import CompareReport, FirstBaseline
    from ...questions.compare import compare as compare_models
    from ...questions.compare.document import pictured
    from ...questions.compare.index_report import IndexOptions
    from ..run import thumbnails_of
    from ..settings import Resolved, refuse_loosening

    required: list[Any] = [word for entry in require or ["indication"] for word in entry.split(",")]
    for word in required:
        one_of("--require", word, ("indication", "index"))
    limits = {"min_cosine": min_cosine, "min_recall": min_recall, "accept_untested": accept_untested_index}
    asked = IndexOptions.model_validate({"file": index, "text": text, "metric": metric, **limits})
    if accept_untested_index and index is None:
        raise UsageError("--accept-untested-index is given without --index", "--index FILE --accept-untested-index")
    settings = call.settings
    is_alone = reference is None and baseline is None and index is None
    if settings.strict:
        resolved = Resolved(settings)
        refuse_loosening(resolved, call.invocation.line)
        check_outputs(resolved, settings.output)
        if write_baseline is not None:
            path = str(write_baseline)
            again = f"--write-baseline {quoted(path)}"
            refuse_unsafe(resolved, ("output",), f"--write-baseline is {path}", path, again)
    if is_alone and (write_baseline is None or settings.strict):
        raise UsageError(
            "REFERENCE.onnx is missing; a candidate is compared with a model, a baseline, or the vectors of --index",
            "robustcheck compare candidate.onnx reference.onnx",
        )
    if is_alone and (settings.output or require):
        raise UsageError(
            "nothing is compared, so there is no report for --output, and none for --require", "leave it out"
        )
    if index is not None and reference is None and baseline is None:
        _refuse_alone(settings.output, require)
    thresholds = path_of(settings.thresholds)
    call.begin(baseline, index, text)
    if write_baseline is not None:  # it may be the baseline, which a PASS replaces
        others = [path for path in (index, text) if path is not None]
        check_extra("--write-baseline", write_baseline, others, call.destinations, "baseline.json")
    result = call.measured(
        compare_models,
        candidate,
        reference,
        baseline=baseline,
        tolerance=tolerance,
        thresholds=thresholds,
        index=asked,
        require=required,
        write_baseline=write_baseline,
    )
    if isinstance(result, FirstBaseline):
        call.say(f"wrote {write_baseline}; nothing was compared, so there is no verdict")
        return 0
    in_html = "html" in [form for form, *_ in call.destinations]
    if isinstance(result, CompareReport) and in_html and not settings.no_thumbnails:
        with isolation.Wall(settings.limits) as wall:
            photos = thumbnails_of([pictured(result)], settings.options, wall)
        result = result.model_copy(update={"thumbnails": photos.thumbnails})
    code = call.answer(result)
    process.announce((), call.destinations, enabled=not settings.no_ci, summary=result.to_markdown())
    call.invocation.judged = True
    return code


def _refuse_alone(outputs: Texts, require: Several) -> None:
    """Refuse what only a comparison with a reference has."""
    words = [word for entry in require or () for word in entry.split(",")]
    if "indication" in words:
        raise UsageError(
            "--require is indication, without a reference; only the index verdict can decide then", "--require index"
        )
    missing = ("junit", "sarif", "openmetrics", "predicate", ".xml", ".sarif")
    forms = [each for each in outputs if each.startswith(missing) or each.endswith(missing)]
    if forms:
        raise UsageError(
            f"--output is {forms[0]}, which needs a reference; without one there is json, html and markdown",
            "--output json",
        )


@question(
    images=AS_FOR_A_CHECK,
    max_images={"default": 64},
    save_representations={},
    block=option(
        "Measure this tensor instead of the ends of blocks found by rule. May be given several times.", "TENSOR", MODEL
    ),
)
def scan(call: Question, model: Model, block: Several = None) -> int:
    """Show in which block of a model outlier features begin.

    Information, not a gate: the exit code is 0 after a measurement, and never 1.
    """
    from ...questions.scan import run

    call.begin()
    if (saved := call.settings.save_representations) is not None:
        check_extra("--save-representations", Path(saved), (), call.destinations, "rows.npz")
    return call.answer(call.measured(run.scan, model, blocks=block or (), save_representations=saved))


@question(
    without=("tensor", "pool"),
    max_images=PER_SET,
    inside=option(
        "In-distribution images with labels: a folder of class folders, or a manifest (.csv, .jsonl) with a "
        "column label. imagenet=PATH marks it as ImageNet.",
        "[NAME=]PATH",
        IMAGES,
        "--in",
    ),
    shifted=option(
        "A shifted set, with labels too. v2=, sketch=, r=, a= and objectnet= name the known ones. May be "
        "given several times.",
        "[NAME=]PATH",
        IMAGES,
    ),
    target=option(
        "A set without labels: accuracy on it is predicted from the model's scores. May be given several times.",
        "[NAME=]PATH",
        IMAGES,
    ),
    more=argument("Further sets of the one kind that is given.", "[NAME=]PATH"),
    classes=option(
        "What labels mean: imagenet, imagenet-r, imagenet-a, names (of the file's contract), sorted (class "
        "folders in order), or a JSON file that maps labels to class indices. With NAME= for one set only. "
        "Default: synset ids, indices and class names are recognised.",
        "[NAME=]MAP",
        IMAGES,
    ),
    report=option(
        "JSON report of a check of this model. Default: the check runs on the images of --in.", "REPORT.json", VERDICT
    ),
    suite_entry=option("Also write the accuracies as a model of a suite file (TOML).", "ENTRY.toml", OUTPUT),
)
def shift(
    call: Question,
    model: Model,
    inside: str,
    shifted: Several = None,
    target: Several = None,
    more: Several = None,
    classes: Several = None,
    baseline: Baseline = "timm",
    report: Path | None = None,
    suite_entry: Path | None = None,
) -> int:
    """Measure accuracy on shifted images, or predict it without labels.

    Information, not a gate: the exit code is 0 after a measurement, and never 1.
    """
    from ...outside.storage.stores import write_atomically
    from ...questions.shift.document import suite_entry as entry_of
    from ...questions.shift.run import measure_shift

    if more and shifted and target:
        raise UsageError(
            f"{more[0]}: set is given without an option; with both --shifted and --target each set needs its own",
            f"--shifted {more[0]}, or --target {more[0]}",
        )
    labelled = shifted or []
    unlabelled = target or []
    (unlabelled or labelled).extend(more or ())  # a shell makes several words of one pattern
    call.begin(report)
    if suite_entry is not None:
        check_extra("--suite-entry", suite_entry, (), call.destinations, "entry.toml")
    result = call.measured(
        measure_shift,
        model,
        inside,
        labelled,
        target=unlabelled,
        classes=classes or (),
        baseline=baseline,
        report=report,
    )
    call.answer(result)
    if suite_entry is not None:
        try:
            entry = entry_of(result, suite_entry.resolve().parent)
        except CannotAssessError as fault:  # the report stands: an error document must not take its place
            process.say(f"{suite_entry}: {fault.message}", fault.hint)
            return fault.exit_code
        write_atomically(suite_entry, entry)
    return 0


@question(
    max_images={},
    concept_set=option(
        "A folder of folders named after concepts, a manifest (.csv, .jsonl) with the columns path and "
        "concept (and perhaps score), or a Broden-layout folder.",
        "SET",
        IMAGES,
        "--concepts",
    ),
    of=option(
        "Directions: head (right singular vectors of its weight), features, or axes (principal axes of these "
        "images). Default: head where there is one, else axes.",
        "WHAT",
        MODEL,
    ),
    head=option("Take the head from a file: .npy or .safetensors with its weight, (class, feature).", "FILE", MODEL),
    min_positives=option("Judge a concept that at least N images have, and N do not.", "N", IMAGES, min=2),
    min_coverage=option(
        "Share of a Broden mask from which a concept is present; 0: any pixel.", "SHARE", IMAGES, min=0, max=1
    ),
    shuffles=option("How often labels are shuffled to see what chance gives.", "N", IMAGES, min=19),
)
def concepts(
    call: Question,
    model: Model,
    concept_set: str,
    of: str | None = None,
    head: Path | None = None,
    min_positives: int = 10,
    min_coverage: float = 0.0,
    shuffles: int = 200,
) -> int:
    """Find concepts that single directions detect, compared with chance.

    A direction of the representation detects a concept if it ranks the images that have it before the others. The
    number of concepts is not an indicator of robustness. Information, not a gate: the exit code is 0 after a
    measurement, and never 1.
    """
    from ...questions.concepts import run

    call.begin()
    report = call.measured(
        run.concepts,
        model,
        concept_set,
        of=of,
        head=head,
        min_positives=min_positives,
        min_coverage=min_coverage,
        shuffles=shuffles,
    )
    return call.answer(report)


@question(
    images=AS_FOR_A_CHECK,
    max_images={**PER_SET, "default": 300},
    inside=option(
        "Images with labels, as of `robustcheck shift`: accuracy is measured, too. Without --images, "
        "everything is measured on them.",
        "[NAME=]PATH",
        IMAGES,
        "--in",
    ),
    shifted=option(
        "A shifted set with labels, as of `robustcheck shift`. May be given several times.", "[NAME=]PATH", IMAGES
    ),
    classes=option("What labels mean, as of `robustcheck shift`.", "[NAME=]MAP", IMAGES),
    head=option(
        "Weights of a linear head on the representation, instead of the model's own: .npy (class, feature), "
        "or .safetensors with weight and bias. --tensor and --pool may only be given with it.",
        "FILE",
        MODEL,
    ),
)
def directions(
    call: Question,
    model: Model,
    inside: str | None = None,
    shifted: Several = None,
    classes: Several = None,
    baseline: Baseline = "timm",
    head: Path | None = None,
) -> int:
    """Show the important directions of a head, and what pruning costs.

    Information, not a gate: the exit code is 0 after a measurement, and never 1.
    """
    from ...questions.directions import run

    call.begin()
    sets = {"labelled": inside, "shifted": shifted or (), "classes": classes or ()}
    return call.answer(call.measured(run.directions, model, head=head, baseline=baseline, **sets))
