"""The verbs that measure, and judge nothing: `scan`, `shift`, `concepts` and `directions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ...errors import CannotAssessError, UsageError
from .. import process
from ..destinations import check_extra
from ..options import IMAGES, MODEL, OUTPUT, VERDICT, Model, Several, argument, option
from . import AS_FOR_A_CHECK, Question, question

Baseline = Annotated[
    Literal["timm", "testbed"],
    option("Published models that effective robustness is measured against: timm or testbed.", "NAME", VERDICT),
]


PER_SET = {"help": "Stop after this many images of each set."}


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
    report = call.measured(run.scan, model, blocks=block or (), save_representations=saved)
    return call.answer(report)


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
    from ...outside.storage.documents import write_atomically
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
    report = call.measured(run.directions, model, head=head, baseline=baseline, **sets)
    return call.answer(report)
