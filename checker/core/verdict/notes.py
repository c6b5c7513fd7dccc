"""Write the notes of a report: what a reader must know of model, photos and machine, and is not a reason for WARN."""

from collections.abc import Iterator, Sequence

from ....thresholds import profile as profiles
from ....thresholds.profile import Profile
from ...text import Texts, first_of, number_text, short_digest
from ..evidence import Evidence, Execution, ImageFacts, Skips
from .pixels import expected_levels, is_raw
from .rule import limit_of

HEAD_NOTE = "The classifier's last layer was not looked at: the verdict is about the features that it reads."
ON_BUNDLED = "on the bundled photos, not yours"
BUNDLED_NOTE = (
    f"Measured {ON_BUNDLED}: for a release gate, give photos of the kind that your model will see (--images)."
)
SHOWN = 6  # inputs and outputs that were left out and are named


def notes_of(evidence: Evidence, profile: Profile) -> Texts:
    """Write the notes that a verdict rests on.

    A note is about a choice or a circumstance that is not a reason for WARN.

    Args:
        evidence: what was measured.
        profile: what it was judged by.
    """
    return (
        *_profile_notes(profile),
        *model_notes(evidence.model.synthetic, left_out=evidence.model.left_out),
        *int8_notes(evidence.model.saturating_pairs, evidence.execution),
        *_run_notes(evidence),
        *image_notes(evidence.images),
        *execution_notes(evidence.execution),
    )


def model_notes(
    planted: str, *, random_weights: bool = False, preprocessing: str = "", left_out: Sequence[str] = ()
) -> list[str]:
    """Note what a reader must know of a model.

    Args:
        planted: what was planted in it by hand; empty for a real model.
        random_weights: whether nobody trained it. A check has a reason for that, and gives no note.
        preprocessing: where it comes from; a check has a reason for "assumed", too.
        left_out: of a file with several inputs, the inputs and outputs that were not opened.
    """
    notes = []
    if planted:
        notes.append(f"Synthetic model: {planted}.")
    if left_out:
        names = first_of(left_out, SHOWN)
        notes.append(f"The file has several inputs; what needs the image alone was measured. Left out: {names}.")
    if random_weights:
        notes.append("The model has random weights: it was never trained.")
    if preprocessing == "assumed":
        notes.append("The preprocessing was assumed: the file does not define it. Wrong pixels give wrong numbers.")
    return notes


def _run_notes(evidence: Evidence) -> Iterator[str]:
    """Note what is special about how the model was measured."""
    model = evidence.model
    preprocessing = evidence.preprocessing
    if model.rule == "head_input":  # what a classifier's last layer makes of the features was not measured
        yield HEAD_NOTE
    together = model.batch_difference
    fixed = model.fixed_scale_difference
    if fixed is not None and together is not None and fixed <= limit_of(evidence) < together:
        yield (
            "The verdict holds for batches of one image: this model's quantisers take their scale over the whole "
            f"batch. Each image ran alone (--batch-size 1); with others a representation changed by {together:.2g} "
            "(relative)."
        )
    if preprocessing.preprocessing.color_order == "grey":
        yield "The model takes one channel: photos were fed in grey, as their luminance."
    # some models are trained for that, and most are not
    if preprocessing.source != "tensors" and is_raw(expected_levels(model, preprocessing)):
        yield (
            "Pixels reach the model's first layer as 0 to 255: the preprocessing does not scale them, nor does the "
            "graph, as far as it can be read. That is right only for a model that was trained like that."
        )


def image_notes(images: ImageFacts) -> list[str]:
    """Note that the images are the bundled ones, have no name, or could not all be used."""
    notes = []
    if images.bundled:
        notes.append(BUNDLED_NOTE)
    if images.given:
        notes.append(
            f"The images were handed over in Python ({images.source}) and measured in that process; this report names "
            "no files that could be measured again."
        )
    return notes + skipped_note(images.n_skipped, images.n_read, images.skipped)


def memory_note(name: str) -> list[str]:
    """Note that the model was not a file. `name` describes what it was."""
    return [f"The model was handed over in Python ({name}), not as a file; no sidecar of it was looked for."]


def skipped_note(n_skipped: int, n_read: int, skipped: Skips, name: str = "") -> list[str]:
    """Note how many images of a set were skipped, if any, and name the first three with the reason."""
    if not n_skipped:
        return []
    first = "; ".join(f"{image}: {reason}" for image, reason in skipped[:3])
    of_set = f" of {name}" if name else ""
    return [f"{n_skipped} of {n_read} images{of_set} were skipped ({first})."]


def fallback_note(execution: Execution) -> list[str]:
    """Note why `--device auto` used the CPU."""
    return [f"The CPU was used: {execution.fallback_reason}."] if execution.fallback_reason else []


def execution_notes(execution: Execution) -> list[str]:
    """Note that the CPU was used, all or in part, the graph optimisation lowered, or float16 computed in float32."""
    notes = fallback_note(execution)
    if execution.heavy_on_cpu:
        heavy = ", ".join(f"{n} {op}" for op, n in execution.heavy_on_cpu.items())
        notes.append(f"Although a GPU was used, heavy nodes ran on the CPU: {heavy}.")
    if execution.optimization != "all":
        notes.append(
            f"Graph optimisation was lowered to {execution.optimization}: at a higher level, reading the "
            "representation changed the model's own output."
        )
    if execution.precision == "fp16" and execution.providers[0] == "CPUExecutionProvider":
        notes.append(
            "On the CPU, ONNX Runtime computes the float16 layers of this file in float32. A GPU computes them in "
            "float16, which has other roundings and ends at 65504: check it there, too, if it will run there."
        )
    return notes + reference_notes(execution)


def reference_notes(execution: Execution) -> list[str]:
    """Note what reference arithmetic made of a few images, where it differs by more than rounding, or did not run."""
    run = execution.reference
    if run is None:
        return []
    if run.failed:
        some = f"Only {run.n_images} images" if run.n_images else "No image"
        return [f"{some} could be run once more by {run.words}: {run.failed}"]
    if not run.exceeds_rounding:
        return []
    return [
        f"The vectors of {execution.machine} differ from those of {run.words} by more than rounding: over "
        f"{run.n_images} images the cosine of the two is {number_text(run.cosine)} (median), and that of two reference "
        f"runs {number_text(run.floor)}."
    ]


SATURATING_PAIRS = 0.005  # one scale per channel 0.015 to 0.021, per tensor below 0.0003, 7 bits and uint8 0


def int8_notes(saturating_pairs: float | None, execution: Execution | None = None) -> list[str]:
    """Note that int8 sums of a file saturate on some CPUs.

    Args:
        saturating_pairs: as in `ModelFacts`.
        execution: how it ran; None where it did not run.
    """
    if saturating_pairs is None or saturating_pairs < SATURATING_PAIRS:
        return []
    here = ""
    if execution is not None and execution.sums_words:
        here = f" On this CPU such sums {execution.sums_words}."
    share = f"{100 * saturating_pairs:.1f} % of the pairs of weights can exceed 16 bits"
    return [
        "On x86 CPUs with AVX2 and without VNNI, ONNX Runtime's int8 sums saturate for this file "
        f"({share}), and its vectors differ from the exact ones.{here}"
    ]


def _profile_notes(profile: Profile) -> list[str]:
    """Note how a profile differs from the default one. The default itself gets no note."""
    default = profiles.load()
    if profile.digest == default.digest:
        return []
    notes = [
        f"The thresholds are not the default profile ({default.id}, {short_digest(default.digest)}) but {profile.id} "
        f"({short_digest(profile.digest)}), given with --thresholds: PASS means what that profile defines."
    ]
    if looser := profiles.looser_than(profile, default):
        notes.append(f"The profile is looser than the default in places: {'; '.join(looser)}.")
    if n_missing := len(profile.calibration.missing):
        notes.append(f"The profile's calibration is not complete: {n_missing} models of its suite were not measured.")
    return notes
