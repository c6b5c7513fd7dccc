"""The verbs that measure nothing: `explain`, `inspect`, `doctor`, `profiles` and `init`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from ...errors import EXIT_CODES, CannotAssessError, UsageError
from ...text import as_json, count_text, quoted
from ..destinations import check_target
from ..help import Verbs
from ..options import Output, Several, Values, argument, option, path_of
from ..output import console_for
from . import FORMS, Call, Question, output_of, takes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ....thresholds.profile import Profile
    from ...core.runtime.doctor import MachineFinding


TOPICS = ("exit-codes", "preprocessing", "reasons", "schema")
PREPROCESSING = """How a photo becomes the input of a model, here of OpenAI's CLIP:

{
  "size": [224, 224],
  "resize_mode": "shortest",
  "resize_size": [224, 224],
  "interpolation": "bicubic",
  "crop": "center",
  "mean": [0.48145466, 0.4578275, 0.40821073],
  "std": [0.26862954, 0.26130258, 0.27577711]
}

size           height and width that the model gets, in pixels; one number for a square
resize_mode    shortest or longest: that edge becomes resize_size; squash: both; none
resize_size    as size
interpolation  nearest, box, bilinear, hamming, bicubic or lanczos
crop           center or none [default: center]
crop_rounding  round (torchvision) or floor (transformers) [default: round]
fill           colour of the padding, 0 to 255 [default: 0, 0, 0]
rescale        factor on pixels of 0 to 255 [default: 1/255]
mean           subtracted after rescale, of red, green and blue
std            divisor after mean
color_order    RGB, BGR or grey [default: RGB]

Save it next to model.onnx as model.robustcheck.json, or name it: --preprocess FILE.json.
The preprocessing files of open_clip, timm and transformers are read as well."""


WORDS = {
    "outlier feature": "one of a few coordinates of the representation that are extreme in most or all images.",
    "indication": "the outlier features of robust CLIP encoders: strong, persistent and two-sided.",
    "representation": "the vector of an image that a linear head reads.",
    "tensor": "what is measured: one vector per image, the representation. `robustcheck inspect MODEL` shows it.",
    "interval": "where the value lies, by bounds that are made for all looks of a run together.",
    "threshold": "the limit of a statistic: PASS needs the whole interval on one side of it.",
    "must be": "the threshold. The whole interval must lie on this side of it.",
    "ok": "whether the interval clears the threshold: yes, no, straddles (it is in it), unknown (not measured).",
    "waiver": "an entry of the settings that accepts a reason until a given day.",
    "profile": "a file with the thresholds of PASS and the models that they were fitted to.",
    "contract": "a text inside an ONNX file that describes its preprocessing and names the representation.",
    "synthetic": "somebody planted features in the model by hand, as its contract says.",
    "student": "a model that was trained to give the vectors of another encoder.",
    "baseline": "a file with the numbers of a model, for comparisons without the model.",
    "compatible": "queries of the candidate find enough of the same neighbours in a vector index of the reference.",
    "re-embed": "queries of the candidate find too few of them; make the index again with the candidate.",
    "recall": "share of the nearest neighbours by the reference that the candidate's query finds, too.",
    "shift": "a difference between the images in use and those of the training, like sketches instead of photos.",
    "effective robustness": "accuracy on a shift beyond that of ImageNet models with the same ImageNet accuracy.",
}
"""words of reports and pages that no other text defines"""


def _words() -> dict[str, str]:
    """Return what each word of a report means, without reasons and kinds."""
    from ....thresholds.statistics import DEFINITIONS
    from ...core.verdict.index_reasons import INDEX_REASONS
    from ...core.verdict.kinds import KINDS, NAMES
    from ...core.verdict.reasons import RULES
    from ...report.record import CLAIM

    words: dict[str, str] = {}
    for name, text in DEFINITIONS.items():
        words |= dict.fromkeys((name, NAMES[name]), f"{text}.")
    for code, text in EXIT_CODES.items():
        words[str(code)] = f"{text}."
    kinds = [f"{kind} ({text})" for kind, text in KINDS.items()]
    words["PASS"] = CLAIM
    words["WARN"] = f"{CLAIM} The kinds of WARN: {'; '.join(kinds)}."
    for reason in INDEX_REASONS.keys() - RULES.keys():
        words[reason] = f"index verdict: {_of_index(reason)}"
    return words | WORDS


def _of_index(name: str) -> str:
    """Return what a reason of an index verdict means, with its next step; empty for another reason."""
    from ...core.verdict.index_reasons import INDEX_REASONS

    return " ".join(INDEX_REASONS.get(name, ())).strip()


def _topics(incomplete: str) -> list[str]:
    """Return the topics that a shell offers."""
    from ...core.verdict.kinds import KINDS
    from ...core.verdict.reasons import RULES

    return [topic for topic in (*RULES, *KINDS, *TOPICS, *_words()) if topic.startswith(incomplete)]


def _plain(topic: str) -> str:
    """Return a topic without the marks in which its spellings differ."""
    return topic.lower().replace("_", " ").replace("-", " ").removeprefix("exit code ").strip(" ?")


@takes(
    "debug",
    topic=argument(
        "A word of a report: a reason, a kind, a statistic, an exit code. Or reasons (all), exit-codes, "
        "preprocessing (an example of it), schema (of the JSON report).",
        "TOPIC",
        autocompletion=_topics,
        show_default=True,
    ),
)
def explain(call: Call, topic: str = "reasons", output: Output = "terminal") -> int:
    """Explain reasons for WARN, exit codes, preprocessing, the report."""
    topics = {_plain(name): name for name in _topics("")}
    words = _words()
    if _plain(topic) not in topics:
        near = [*get_close_matches(_plain(topic), topics, 1), "reasons"]
        closest = quoted(topics[near[0]])
        raise UsageError(
            f"topic is {topic!r}; it must be a word of a report, or {', '.join(TOPICS)}",
            f"robustcheck explain {closest}",
        )
    topic = topics[_plain(topic)]
    if topic == "schema":
        from ...report.record import json_schema

        sys.stdout.write(json_schema())
    else:
        document, text = _answer(topic, words.get(topic))
        if output == "json":
            text = as_json({"schema_version": 1, "tool": "robustcheck"} | document)
        sys.stdout.write(text.removesuffix("\n") + "\n")
    return 0


def _answer(topic: str, meaning: str | None) -> tuple[Values, str]:
    """Return a topic's explanation as JSON values, and as text. meaning: of a word that is not a reason or kind."""
    from ...core.preprocessing import CLIP
    from ...core.verdict.kinds import KINDS
    from ...core.verdict.reasons import RULES

    if meaning:
        return {"words": {topic: meaning}}, _wrapped(f"{topic}: {meaning}")
    if topic == "exit-codes":
        lines = [f"{code:>4}  {text}" for code, text in EXIT_CODES.items()]
        return {"exit_codes": EXIT_CODES}, "\n".join([*lines, "      Only 0 lets a release through."])
    if topic == "preprocessing":
        return {"preprocessing": CLIP.model_dump()}, PREPROCESSING
    chosen = {name: rule for name, rule in RULES.items() if topic in (name, rule.kind, "reasons")}
    reasons = [{"id": name} | rule._asdict() for name, rule in chosen.items()]
    if one := RULES.get(topic):
        paragraphs = [one.explanation, f"Next step: {one.next_step}"]
        if meaning := _of_index(topic):
            paragraphs.append(f"Of an index verdict: {meaning}")
        title = f"{topic}: {one.title} ({one.kind})"
        return reasons[0], "\n\n".join([title, *map(_wrapped, paragraphs)])
    kinds = {kind: words for kind, words in KINDS.items() if topic in (kind, "reasons")}
    column = max(map(len, RULES))
    lines = []
    for kind, words in kinds.items():
        lines.append(_wrapped(f"{kind}: {words}"))
        of_kind = [(name, rule.title) for name, rule in RULES.items() if rule.kind == kind]
        lines += [f"  {name:<{column}}  {title}" for name, title in of_kind]
        lines.append("")
    lines.append("robustcheck explain REASON shows what it means and what to do.")
    return {"kinds": kinds, "reasons": reasons}, "\n".join(lines)


def _wrapped(text: str) -> str:
    width = min(max(console_for().width, 40), 100)
    return fill(text, width, break_on_hyphens=False)


profiles = Verbs(name="profiles", help="Show the thresholds of PASS, their basis and error rates.")


@profiles.verb("robustcheck profiles list mine.json", name="list")
@takes("color", "debug", files=argument("Further profile files.", "PROFILE", show_default=True))
def list_profiles(call: Call, files: Several = None, output: Output = "terminal") -> int:
    """List the packaged profiles, and the files that you name."""
    from ....thresholds.profile import PACKAGED
    from ...questions.calibrate.terminal import render_list

    packaged = {path: name for name, path in reversed(PACKAGED.items())}  # of two names for one, the first
    specs = [*reversed(packaged.values()), *(files or [])]
    profiles_by_name = [(spec, _loaded(spec)) for spec in specs]
    rows = [
        {
            "profile": name,
            "id": p.id,
            "digest": p.digest,
            "tensor": p.tensor,
            "with": p.calibration.n_with_checkpoints,
            "without": p.calibration.n_without_checkpoints,
            "false_pass_upper": p.calibration.false_pass_upper,
        }
        for name, p in profiles_by_name
    ]
    document = {"schema_version": 1, "tool": "robustcheck", "profiles": rows}
    call.show(output, partial(as_json, document), partial(render_list, profiles_by_name))
    return 0


@profiles.verb("robustcheck profiles show default")
@takes("color", "debug", name=argument("A profile file, or the name of a packaged one.", "PROFILE", show_default=True))
def show(call: Call, name: str = "default", output: Output = "terminal") -> int:
    """Show a profile's basis, its error rates, and what it holds for."""
    from ....thresholds.profile import PACKAGED, to_json
    from ...questions.calibrate.terminal import render_profile

    loaded = _loaded(name)
    where = "packaged" if name in PACKAGED else name
    call.show(output, partial(to_json, loaded), partial(render_profile, loaded, where=where))
    return 0


def _loaded(spec: str) -> Profile:
    """Load the profile of a file or packaged name. Raises UsageError."""
    from ....thresholds import profile

    try:
        return profile.load(spec)
    except (profile.ProfileError, RecursionError) as fault:
        message = str(fault)
        if isinstance(fault, RecursionError):
            message = f"{spec}: threshold profile is nested too deeply; it must be a sealed profile"
        is_there = spec in profile.PACKAGED or Path(spec).exists()
        near = get_close_matches(spec, profile.PACKAGED, 1)
        hint = "robustcheck profiles list"
        if near and not is_there:
            hint = f"robustcheck profiles show {near[0]}"
        raise UsageError(message, hint) from fault


@takes(
    "debug",
    path=argument("The file to write.", "FILE", show_default=True),
    force=option("Replace a file that is there."),
)
def init(call: Call, path: Path = Path("robustcheck.toml"), force: bool = False) -> int:
    """Write a settings file with every setting, its default and meaning."""
    from ...outside.storage.documents import write_atomically
    from .. import settings, settings_file

    if path.name == settings_file.SHARED_FILE:
        raise UsageError(
            f"{path}: file holds more than these settings; write [tool.{settings_file.TABLE}] into it by hand",
            "robustcheck init robustcheck.toml",
        )
    check_target(path, is_own=Path.is_file)  # --force replaces any file
    if os.path.lexists(path) and not force:
        raise UsageError(
            f"{path}: file exists already; init does not replace it", f"robustcheck init {quoted(path)} --force"
        )
    write_atomically(path, settings.template())
    sys.stdout.write(f"wrote {path}; nothing in it is set yet: remove the # in front of what you want to set\n")
    return 0


DOCTOR_SCHEMA = "robustcheck.doctor/1"
_SIGNS = {"ok": ("✓", "green"), "warn": ("▲", "yellow"), "fail": ("✗", "red")}


@takes(
    "tensor",
    "pool",
    "preprocess",
    "thresholds",
    "output",
    "verbose",
    "color",
    "timeout",
    "max_memory",
    "max_model_size",
    "offline",
    "debug",
    call=Question,
    output=output_of(FORMS),
    verbose={"max": 1, "help": "Everything that the file contains, with the source of each value."},
    thresholds={"help": "The threshold profile that the file would have to pass. Default: the packaged one."},
    model=argument(
        "The ONNX file, a folder with one in it or in its folder onnx, or an address: hf://org/repo, models:/name/3 "
        "and others.",
        "MODEL.onnx",
        readable=False,
    ),
)
def inspect(call: Question, model: str) -> int:
    """Show whether a file can pass, and what a check would measure."""
    from ...core.verdict.profile import load_profile
    from ...outside.addresses import parse_address
    from ...outside.isolation import NotReadError
    from ...outside.storage.places import as_typed
    from ...questions import inspection

    settings = call.settings
    place = inspection.find_model(parse_address(model))
    call.begin()
    profile = load_profile(path_of(settings.thresholds))
    chosen = {"tensor": settings.tensor, "pool": settings.pool, "preprocess": settings.preprocess}
    try:
        result = inspection.inspect(as_typed(place), thresholds=profile, limits=settings.limits, **chosen)
    except NotReadError:
        raise  # that says nothing about the file
    except (UsageError, CannotAssessError) as fault:
        is_own = all(value is None for value in chosen.values())
        if isinstance(fault, UsageError) and not (is_own and isinstance(place, Path) and place.is_file()):
            raise  # a fault of the call says nothing about the file
        call.invocation.documents = []  # the error's own document
        call.answer(inspection.unopened(place, fault))
        raise
    call.answer(result)
    return 0


@takes("color", "debug")
def doctor(call: Call, output: Output = "terminal") -> int:
    """Check this installation, and show how to fix it."""
    from ...core.runtime import doctor

    findings = doctor.diagnose()
    call.show(output, partial(as_json, doctor_json(findings)), partial(render_doctor, findings))
    return 4 if any(finding.status == "fail" for finding in findings) else 0


def render_doctor(findings: Sequence[MachineFinding], *, ascii_only: bool = False) -> RenderableType:
    """Lay out findings about the environment, each with what to type; the last line answers."""
    from rich.console import Group
    from rich.text import Text

    from ...report.terminal import Pen, Trimmed, hanging, line

    pen = Pen(ascii_only)
    blocks: list[RenderableType] = []
    for finding in findings:
        sign, colour = _SIGNS[finding.status]
        status = pen.say(f"{sign} {finding.status:<4}", colour)
        detail = line(pen.say(finding.check, "bold"), pen.say(f"  {finding.detail}"))
        blocks.append(hanging([(status, detail)]))
        if finding.fix:
            blocks.append(pen.command(f"  {finding.fix}"))
    n_failed = sum(finding.status == "fail" for finding in findings)
    broken = f"{count_text(n_failed, 'thing')} must be fixed: type what is shown, then robustcheck doctor."
    answer = broken if n_failed else "Checks run here; nothing needs a fix."
    return Trimmed(Group(*blocks, Text(), pen.say(answer, "bold")))


def doctor_json(findings: Sequence[MachineFinding]) -> Values:
    """Return the findings as JSON values."""
    return {"schema": DOCTOR_SCHEMA, "findings": [finding.model_dump(mode="json") for finding in findings]}
