"""Derives the limits of `little_content` and writes studies/results/students.md.

python studies/content_limits.py EMBEDDINGS_DIR

Three kinds of representations: those of the students (studies/students.py) by the real check, those of ridge
aligners with pairs at random (studies/aligners.py), and the published sets.
"""

from __future__ import annotations

import ast
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import students
from aligners import align
from attack import clears, last_look
from measure_reference import LEAST

from robustcheck_onnx.checker.core.evidence import CONTENT_IMAGES, TOP_FEATURES, Statistics
from robustcheck_onnx.checker.core.statistics.definitions import (
    effective_rank,
    relative_variance,
    standardise,
    top_features,
)
from robustcheck_onnx.checker.core.statistics.state import State, statistics, update
from robustcheck_onnx.checker.core.verdict import rule
from robustcheck_onnx.checker.questions.check import check
from robustcheck_onnx.thresholds import profile

PROFILE = profile.load()
SUBSETS = 60  # random ones of `CONTENT_IMAGES` rows of each set
UNTAUGHT_R2 = 0.15  # share of its targets' variance that an untaught model explains at most, on what it was fitted to
NOT_PHOTOS = ("physicist_b16_pathmnist", "michaengeser_b32_drawings")  # 28-pixel tissue; drawings
SOURCES = (
    "esthetics_dinov2_s14", "graffiti_vit_in21k", "titanpoc_dinov2_b14_jewelry", "hypergallery_swinv2_l",
    "facenet512_celeb", "angela_dinov2_g14_parts",
)  # fmt: skip
TARGETS = (*students.CLIP_SETS, "clipv_caltech_rn50", "domas_biomedclip_melanoma")
SHOWN = ("imas_imagenet_b32", "shopthelook_openclip_b32_laion2b")  # targets whose aligners the page lists
REGULARISATIONS = (1e-4, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)

STUDENTS = (
    "kind | teacher | pairs | steps | seed | photos | R² | cosine | strength | persistence | two-sidedness | K | "
    "spread | relative SD | rank | variance | verdict | reasons"
)
LIMITS = (
    "limit | from | highest untaught | lowest published | two thirds of the way | in the rule | "
    "price of the rule's | price of two thirds"
)
ALIGNERS = (
    "from | to | regularisation | R² | strength | persistence | two-sidedness | K | clears the thresholds | rank | "
    "variance | spread | relative SD"
)
SETS = "set | n | shows the indication | rank, first 50 | variance, first 50 | rank | variance | spread | relative SD"


class Held(NamedTuple):
    """What the limits look at, of 50 representations."""

    rank: float
    variance: float
    spread: float
    relative_sd: float
    """the smallest of the features that the evidence rests on"""


class Range(NamedTuple):
    """The least and the largest value over subsets."""

    low: Held
    high: Held


def measured(h: np.ndarray) -> Statistics:
    """The statistics of all of these representations, image by image a group of its own."""
    state = State(h.shape[1])
    update(state, h, np.arange(len(h)))
    return statistics(state, PROFILE.alpha, PROFILE.bounds)


def held(h: np.ndarray) -> Held:
    """What the limits look at; spread and relative SD as `measured` has them, without the jackknife."""
    z = standardise(h)
    top = top_features((z**4).sum(axis=0))
    rest = np.delete(z, top, axis=1)
    spread = float(rest.var(axis=0).sum() / (rest**2).mean(axis=0).sum())
    relative_sd = float((h[:, top].std(axis=0) / np.abs(h[:, top].mean(axis=0))).min())
    return Held(effective_rank(h), relative_variance(h), spread, relative_sd)


def smallest_sd(s: Statistics) -> float:
    """The smallest relative SD of the strongest features; infinity where none has one."""
    known = [f.relative_sd for f in s.features[:TOP_FEATURES] if f.relative_sd is not None]
    return min(known, default=float("inf"))


def over_subsets(h: np.ndarray) -> Range:
    """Over random subsets of 50 rows; of a set that is not larger, over itself."""
    rng = np.random.default_rng(0)
    n = min(len(h), CONTENT_IMAGES)
    found = [held(h[rng.choice(len(h), n, replace=False)]) for _ in range(SUBSETS if len(h) > n else 1)]
    return Range(*(Held(*pick(np.array(found), axis=0)) for pick in (np.min, np.max)))


def shows(s: Statistics) -> bool:
    """Return whether the estimates show the indication (docs/statistics.md)."""
    return all((getattr(s, name).estimate or 0) >= least for name, least in LEAST.items())


def values(s: Statistics) -> list[str]:
    """Return the deciding estimates and K, as a table has them."""
    return [f"{getattr(s, name).estimate:.3g}" for name in (*PROFILE.deciding, "kurtosis")]


class Line(NamedTuple):
    """One student on one set of photos."""

    plan: students.Plan
    photos: str
    text: str
    held: Held
    r2: float
    passed: bool


def student_lines() -> list[Line]:
    """The real check on held-out photos, and on those that the student was trained on."""
    train, unseen = students.split()
    sets = {"unseen": unseen, "trained on": [path for path in train if path.parent == unseen[0].parent]}
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for label, paths in sets.items():
            folder = Path(name) / label.split()[0]
            folder.mkdir()
            for path in paths:
                (folder / path.name).symlink_to(path)
        for plan in students.PLANS:
            numbers = ast.literal_eval((students.BUILD / f"{plan.name}.txt").read_text(encoding="utf-8"))
            for label in sets:
                report = check(str(students.BUILD / f"{plan.name}.onnx"), images=Path(name) / label.split()[0])
                s, content = report.evidence.statistics, report.evidence.content
                assert content is not None
                assert content.n == CONTENT_IMAGES
                cells = (
                    plan.kind, plan.target, plan.pairs, plan.steps, plan.seed, label, f"{numbers['r2']:.2f}",
                    f"{numbers['cosine']:.2f} ({numbers['mean_cosine']:.2f})",
                    *values(s), f"{s.spread:.2f}", f"{smallest_sd(s):.3f}", f"{content.effective_rank:.1f}",
                    f"{content.relative_variance:.3f}",
                    report.verdict.verdict, ", ".join(reason.id for reason in report.verdict.reasons),
                )  # fmt: skip
                found = Held(content.effective_rank, content.relative_variance, s.spread or 0.0, smallest_sd(s))
                passed = report.verdict.verdict == "PASS"
                lines.append(Line(plan, label, row(cells), found, numbers["r2"], passed))
                print(lines[-1].text, flush=True)
    return lines


class Aligned(NamedTuple):
    """One ridge aligner."""

    target: str
    text: str
    range: Range
    r2: float
    clears: bool


def aligner_lines(load: Callable[[str], np.ndarray]) -> list[Aligned]:
    """Aligners from signed sets without the indication to real CLIP vectors, pairs at random."""
    lines = []
    for target in TARGETS:
        for source in SOURCES:
            for regularisation in REGULARISATIONS:
                x, y = (unit(load(name)) for name in (source, target))
                h, r2 = align(x, y, regularisation, np.random.default_rng(0))
                s, found = measured(h), over_subsets(h)
                passes = clears(last_look(h, np.arange(len(h)), PROFILE), PROFILE)
                cells = (
                    source, target, f"{regularisation:g}", f"{r2:.3f}", *values(s),
                    "yes" if passes else "no", *ranges(found),
                )  # fmt: skip
                lines.append(Aligned(target, row(cells), found, r2, passes))
    return lines


class Published(NamedTuple):
    """One published set."""

    name: str
    text: str
    range: Range
    n: int
    shows: bool


def published_lines(names: Iterable[str], load: Callable[[str], np.ndarray]) -> list[Published]:
    """Every published set: its first 50 rows, and the least and largest over random subsets."""
    lines = []
    for name in names:
        h = load(name)
        first, found, has = held(h[:CONTENT_IMAGES]), over_subsets(h), shows(measured(h))
        cells = (name, len(h), "yes" if has else "no", f"{first.rank:.1f}", f"{first.variance:.3f}", *ranges(found))
        lines.append(Published(name, row(cells), found, len(h), has))
    return lines


def unit(h: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return np.asarray(h / np.linalg.norm(h, axis=1, keepdims=True))


def ranges(found: Range) -> list[str]:
    """The four values over the subsets."""
    digits = (1, 3, 2, 3)
    return [f"{low:.{d}f}–{high:.{d}f}" for low, high, d in zip(*found, digits, strict=True)]


def row(cells: Iterable[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(header: str, rows: Iterable[str]) -> str:
    """A Markdown table; the header without its outer bars."""
    return "\n".join([f"| {header} |", "|" + "---|" * len(header.split(" | ")), *rows])


def between(low: float, high: float) -> float:
    """Two thirds of the way from the highest that must not pass to the lowest that should, on a logarithmic scale."""
    return float(low ** (1 / 3) * high ** (2 / 3))


def limit_lines(taught: Sequence[Line], aligned: Sequence[Aligned], sets: Sequence[Published]) -> list[str]:
    """The procedure: what each limit comes to, what the rule has, and which real sets with the indication it stops."""
    untaught = [line.held for line in taught if line.r2 <= UNTAUGHT_R2]
    ridge = [line.range.high for line in aligned if line.r2 <= UNTAUGHT_R2]
    real = [one for one in sets if one.shows and one.n >= CONTENT_IMAGES]
    lines = []
    for field, what, below, limit in (
        ("rank", "effective rank", untaught, rule.MIN_EFFECTIVE_RANK),
        ("variance", "relative variance", ridge, rule.MIN_RELATIVE_VARIANCE),
        ("spread", "spread (`representations_alike`)", ridge, rule.ALIKE_SPREAD),
        ("relative_sd", "relative SD of an outlier feature (`constant_feature`)", ridge, rule.CONSTANT_SD),
    ):
        highest = max(getattr(one, field) for one in below)
        lowest, name = min((getattr(one.range.low, field), one.name) for one in real if one.name not in NOT_PHOTOS)
        derived = between(highest, lowest)

        def stopped(at: float, field: str = field) -> str:
            return ", ".join(one.name for one in real if getattr(one.range.low, field) < at) or "none"

        cells = (
            what, "students" if below is untaught else "aligners", f"{highest:.3g}", f"{lowest:.3g} ({name})",
            f"{derived:.3g}", f"{limit:g}", stopped(limit), stopped(derived),
        )  # fmt: skip
        lines.append(row(cells))
        print(lines[-1], flush=True)
    return lines


def main(embeddings: Path) -> None:
    """Measure everything and write the page."""
    students.main(embeddings)
    cached: dict[str, np.ndarray] = {}

    def load(name: str) -> np.ndarray:
        if name not in cached:
            h = np.load(embeddings / f"{name}.npz", allow_pickle=False)["x"].astype(np.float64)
            cached[name] = h[np.isfinite(h).all(axis=1) & (h.std(axis=1) > 0)]
        return cached[name]

    sets = published_lines((path.stem for path in sorted(embeddings.glob("*.npz"))), load)
    aligned = aligner_lines(load)
    taught = student_lines()
    limits = limit_lines(taught, aligned, sets)
    untaught = [line for line in taught if line.plan.pairs == "random"]
    ridge = [line for line in aligned if line.clears]
    stopped = [line for line in ridge if line.range.high.variance < rule.MIN_RELATIVE_VARIANCE]
    page = PAGE.format(
        version=PROFILE.id,
        untaught_r2=UNTAUGHT_R2,
        subsets=SUBSETS,
        n_students=len(students.PLANS),
        n_untaught=len(untaught),
        n_untaught_passed=sum(line.passed for line in untaught),
        passed_r2=f"{min((line.r2 for line in untaught if line.passed), default=1):.2f}",
        n_ridge=len(aligned),
        n_ridge_clear=len(ridge),
        n_ridge_stopped=len(stopped),
        ridge_r2=f"{min((line.r2 for line in ridge if line not in stopped), default=1):.2f}",
        rank=f"{rule.MIN_EFFECTIVE_RANK:g}",
        variance=f"{rule.MIN_RELATIVE_VARIANCE:g}",
        limits=table(LIMITS, limits),
        students=table(STUDENTS, (line.text for line in taught)),
        aligners=table(ALIGNERS, (line.text for line in aligned if line.target in SHOWN)),
        sets=table(SETS, (line.text for line in sets)),
    )
    (students.ROOT / "studies" / "results" / "students.md").write_text(page, encoding="utf-8")


PAGE = """# Students of other encoders

Written by `python studies/content_limits.py EMBEDDINGS_DIR`, profile {version}.

A network trained to match another encoder's vectors shows the outlier features of their *mean* before it has
learned anything else, and the less it has learned the more: strength and persistence describe mostly that mean. WARN
`little_content` stops a model whose representations of the first 50
varied photos have an effective rank below {rank}, or a relative variance below {variance}
([formulas](../../docs/statistics.md)). Either is enough: networks that were hardly trained vary, but in few directions;
ridge regressions keep their directions, and vary little.

**What it finds, and what it does not.** It finds models that learned *little* of the vectors, not those that learned
*the wrong thing*. Of {n_untaught} checks of students with random pairs {n_untaught_passed} passed (R² {passed_r2} and
more on their training photos): on photos never seen they vary like a real encoder, and their vectors are worse than the
mean. So do students with true pairs that learned only their training photos. Nothing that looks at one model's outputs
alone tells these from a taught one. It costs something, too: the best-taught students of the linear teacher are WARN,
since they vary in fewer directions than their teacher. And photos of one narrow kind look the same:
6 of 41 sets of zero-shot CLIP encoders that took no part in fitting (cats, X-rays, phones, satellites) were WARN by
this reason alone (by a rule of six statistics; not measured again). What no check of outlier features replaces: measure
the accuracy of the model on its own task first.

## Students
{n_students} networks of less than 1 M parameters (64 px; studies/students.py), ViT and CNN, exported by
`robustcheck export torch`. Teachers: *linear* and *planted* have one feature shifted by 15 SD in every image
(`robustcheck demo`; exporters/demo.py); the others are published vectors of real CLIP encoders, given to photos at
random. R²: explained share of the targets' variance on the training photos; below 0 a student is worse than the
mean. Cosine: to the targets of photos not trained on, in brackets that of the training targets' mean alone; with
random pairs to what other photos have. Checked on the half of the bundled photos that was not trained on, and on
the other half; a check can run out of photos before the statistics decide (`undecided`).

{students}

## The limits
Each lies two thirds of the way, on a logarithmic scale, from the highest untaught model to the lowest published set
of photos with the indication (the least over {subsets} random subsets of 50), rounded down. Untaught: R² at most
{untaught_r2}. That is a choice, made with these numbers in view: at 0.2 the highest aligner varies as much as the
lowest published set, so that no limit parts them. The limit of the effective rank comes from the students, that of
the relative variance from the aligners below: an aligner's rank can be that of any 50 vectors, a student's variance
that of a real encoder, so each limit finds what the other does not. The limit of the rank was set on an earlier
training, whose untaught students reached 14.4.

Beside stands what the same procedure makes of two older limits. They stay as they are: every untaught aligner is
stopped by the relative variance already, higher limits would stop real sets, and for the relative SD there is no room
at all. The price of a limit is the published sets with the indication that fall below it in some subset. 28-pixel
tissue (`physicist_b16_pathmnist`) and drawings (`michaengeser_b32_drawings`) are not photos, and were left out above.

{limits}

## Ridge aligners
From signed sets without the indication to CLIP's vectors, pairs at random (studies/aligners.py): {n_ridge}
regressions, of which {n_ridge_clear} clear the thresholds (each as a run in the vectors' order) and {n_ridge_stopped}
of those fall below the limit of the relative variance in every subset. The others have an R² of {ridge_r2} and more.
Listed are those to two of the six targets: least and largest over random subsets of 50; R² in the sample.

{aligners}

## Published sets
The first 50 rows as they were published (some hold copies: Flickr8k has each photo five times), and least and
largest over random subsets of 50. The [indication](../../docs/statistics.md) is that of all rows, by estimates.

{sets}
"""

if __name__ == "__main__":
    main(Path(sys.argv[1]))
