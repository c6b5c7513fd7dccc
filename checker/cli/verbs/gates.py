"""The verbs whose exit code is a verdict: `check`, the default, and `compare`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from ...core.model_size import MAX_MODEL_SIZE
from ...errors import UsageError
from ...text import Texts, as_json, quoted
from .. import process
from ..confinement import check_outputs, refuse_unsafe
from ..destinations import check_extra
from ..options import FORMATS, OUTPUT, ROWS, VECTORS, VERDICT, Several, argument, one_of, option, path_of
from ..output import ascii_only, console_for
from . import AS_FOR_A_CHECK, Call, Question, question, takes


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

        names_images = line.images is not None
        words, photos = split_images(models, images_typed=names_images, strict=line.strict)
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

    from ...report.document import Column
    from ...report.terminal import Pen, Trimmed, empty_table
    from .. import settings

    one_of("--output", form, FORMATS)
    resolved = settings.of_check(call.settings, call.typed)
    document = settings.settings_json(resolved)
    if form == "json":
        sys.stdout.write(as_json(document))
        return 0
    console = console_for(resolved.settings.color)
    pen = Pen(ascii_only(console))
    table = empty_table(pen, (Column("setting", no_wrap=True), Column("value"), Column("source")))
    for key, entry in document["settings"].items():
        text = settings.value_text(key, entry["value"])
        source = entry["source"]
        style = "dim" if source == settings.DEFAULT else "bold"
        where = pen.name(source, style)
        table.add_row(pen.say(key), pen.name(text), where)
    file = pen.name(f"file: {resolved.file or 'none'}")
    console.print(Trimmed(Group(table, file)))
    return 0


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

    required: list[Any] = ",".join(require or ["indication"]).split(",")
    for word in required:
        one_of("--require", word, ("indication", "index"))
    limits = {"min_cosine": min_cosine, "min_recall": min_recall, "accept_untested": accept_untested_index}
    asked = IndexOptions.model_validate({"file": index, "text": text, "metric": metric, **limits})
    if accept_untested_index and index is None:
        raise UsageError("--accept-untested-index is given without --index", "--index FILE --accept-untested-index")
    settings = call.settings
    has_reference = reference is not None or baseline is not None
    is_alone = not has_reference and index is None
    if settings.strict:
        resolved = Resolved(settings)
        refuse_loosening(resolved, call.invocation.line)
        check_outputs(resolved, settings.output)
        if write_baseline is not None:
            path = str(write_baseline)
            again = f"--write-baseline {quoted(path)}"
            refuse_unsafe(resolved, path, f"--write-baseline is {path}", again, "output")
    if is_alone and (write_baseline is None or settings.strict):
        raise UsageError(
            "REFERENCE.onnx is missing; a candidate is compared with a model, a baseline, or the vectors of --index",
            "robustcheck compare candidate.onnx reference.onnx",
        )
    if is_alone and (settings.output or require):
        raise UsageError(
            "nothing is compared, so there is no report for --output, and none for --require", "leave it out"
        )
    if index is not None and not has_reference:
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
        if not settings.quiet:
            sys.stdout.write(f"wrote {write_baseline}; nothing was compared, so there is no verdict\n")
        return 0
    in_html = "html" in [form for form, *_ in call.destinations]
    if isinstance(result, CompareReport) and in_html and not settings.no_thumbnails:
        with isolation.Wall(settings.limits) as wall:
            photos = thumbnails_of([pictured(result)], settings.options, wall)
        result = result.model_copy(update={"thumbnails": photos.thumbnails})
    code = call.answer(result)
    summary = result.to_markdown()
    process.announce((), call.destinations, enabled=not settings.no_ci, summary=summary)
    call.invocation.judged = True
    return code


def _refuse_alone(outputs: Texts, require: Several) -> None:
    """Refuse what only a comparison with a reference has."""
    if "indication" in ",".join(require or ()).split(","):
        raise UsageError(
            "--require is indication, without a reference; only the index verdict can decide then", "--require index"
        )
    missing = ("junit", "sarif", "openmetrics", "predicate", ".xml", ".sarif")
    for output in outputs:
        if output.startswith(missing) or output.endswith(missing):
            raise UsageError(
                f"--output is {output}, which needs a reference; without one there is json, html and markdown",
                "--output json",
            )
