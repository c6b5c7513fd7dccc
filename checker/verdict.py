"""judge(evidence, profile) → verdict: pure, total, and WARN unless everything speaks for PASS."""

from __future__ import annotations

from typing import Literal, NamedTuple

from robustcheck_onnx.checker.evidence import Evidence, Interval, Statistics
from robustcheck_onnx.checker.frozen import Frozen
from robustcheck_onnx.thresholds.profile import STATISTICS, Profile, Statistic

SAME_NUMBERS = 1e-3  # relative; float32 graphs of different batch shape differ by 1e-6 to 1e-4, fp16 by 1e-3
ALIKE_SPREAD = 0.05  # half of the smallest spread of the reference table (0.10: one casting type, corrupted copies)
CONSTANT_SD = 1e-3  # relative SD of a raw feature; outlier features of real encoders have 0.06 and more


class Rule(NamedTuple):
    """What a reason id means and what to do about it; `{…}` is filled in with what was seen."""

    title: str
    next_step: str
    explanation: str


RULES: dict[str, Rule] = {
    "rectified": Rule(
        "rectified representation",
        "Measure a signed representation of this model (`robustcheck inspect MODEL` lists the tensors, "
        "`--tensor NAME` chooses one); for a network that ends in ReLU, SiLU or hard-swish there may be none.",
        "The representation has little or no energy below zero: it comes after ReLU, SiLU, hard-swish or the like. "
        "Rectified and sparse features have a high activation kurtosis without any outlier feature (a supervised "
        "EfficientNet-Lite0 reads about 20), and the thresholds were calibrated on signed representations, so they "
        "do not apply.",
    ),
    "low_kurtosis": Rule(
        "activation kurtosis below the threshold",
        "Nothing to fix in the run. Evaluate this model on shifted data before relying on it outside its training "
        "distribution, or compare it with the checkpoint it was finetuned from.",
        "The upper confidence bound of the activation kurtosis lies below the threshold: no feature stands out as "
        "strongly as in the reference encoders that show the indication. Some robust encoders show nothing either "
        "(OpenCLIP ViT-bigG/14), so this is absence of an indication, not evidence of fragility.",
    ),
    "no_persistent_outlier_features": Rule(
        "no persistent outlier features",
        "Nothing to fix in the run. Evaluate this model on shifted data before relying on it outside its training "
        "distribution, or compare it with the checkpoint it was finetuned from.",
        "No few features are extreme in every image: the kurtosis does not fall when each feature's mean is removed "
        "(persistence ratio), or it is spread over many features (top-3 share). The indication of robustness is "
        "absent; that is not evidence of fragility.",
    ),
    "undecided": Rule(
        "the evidence does not decide",
        "Give more varied in-distribution images (`--images`, `--max-images`).",
        "A confidence interval contains its threshold after all images that were given.",
    ),
    "too_few_images": Rule(
        "too few varied images",
        "Give more varied in-distribution photos with `--images DIR`.",
        "Statistics over few or one-sided images have passed plainly non-robust models (13 product photos of bags, "
        "20 of shoes). Duplicates and near-duplicates do not count.",
    ),
    "duplicate_images": Rule(
        "duplicate images",
        "Remove the duplicates from the calibration images.",
        "The same picture counted twice makes the confidence intervals too narrow.",
    ),
    "near_duplicate_images": Rule(
        "near-duplicate images",
        "Remove near-duplicates (video frames, crops, re-encodings) from the calibration images.",
        "Pictures that are almost the same make the confidence intervals too narrow.",
    ),
    "images_not_varied": Rule(
        "images are not varied",
        "Use images that cover what the model will see in production.",
        "The images look alike as a set. A feature that is extreme in all of them may say more about the images "
        "than about the model.",
    ),
    "images_not_photo_like": Rule(
        "images do not look like photos",
        "Use in-distribution photos; noise and synthetic textures fake outlier features.",
        "Noise images and synthetic textures made a supervised network show persistent outlier features that it "
        "does not have on photos.",
    ),
    "representations_alike": Rule(
        "representations are almost all alike",
        "Check the model and its preprocessing: it hardly reacts to the images. Then use more varied images.",
        "Almost all of the representation is the same for every image. Any large feature is then constant, whatever "
        "the model has learned; an untrained or broken model looks like this.",
    ),
    "constant_feature": Rule(
        "an outlier feature is a constant",
        "Check the export: a feature that never changes is a constant in the graph, not something the model computes.",
        "The strongest feature has the same raw value in every image. A bad export (a NaN guard, a missing norm, "
        "padding) makes such a feature; outlier features of real encoders vary by 6 % and more.",
    ),
    "nonfinite_representations": Rule(
        "non-finite representations",
        "Run the model in fp32, or find the images and the operator that overflow.",
        "NaN or infinity means that the model failed on an image. It is never averaged in, and a model that fails "
        "on calibration images cannot pass.",
    ),
    "constant_representations": Rule(
        "constant representations",
        "Check the model and its preprocessing on the images named.",
        "All features had the same value: the statistic does not exist for such a representation.",
    ),
    "untrained": Rule(
        "untrained model",
        "Export the model with its weights.",
        "The file's contract says that the weights are random.",
    ),
    "assumed_preprocessing": Rule(
        "preprocessing was assumed",
        "Say what it is: `--preprocess clip|imagenet|FILE`, or put the library's configuration beside the model.",
        "An ONNX file does not say how pixels become inputs. With the wrong mean, size or colour order the model "
        "sees out-of-distribution inputs, and those fake outlier features.",
    ),
    "assumed_tensor": Rule(
        "the representation was assumed",
        "Look at `robustcheck inspect MODEL` and name the tensor with `--tensor NAME`.",
        "The graph does not tell whether it is an encoder or a classifier, so the tensor that was read is a guess.",
    ),
    "tensor_not_calibrated": Rule(
        "no threshold for this tensor",
        "Measure the representation (leave out `--tensor`/`--pool`), or use a profile calibrated on this tensor.",
        "A threshold holds only for the kind of tensor it was calibrated on: a projection or a rotation changes the "
        "kurtosis.",
    ),
    "ends_in_normalisation": Rule(
        "the representation comes out of a normalisation layer",
        "Measure the projected embedding if the model has one, or use a profile calibrated on such representations.",
        "Learned scales of a final norm make or hide large features. No representation of this kind with the "
        "indication was among the reference sets, so the thresholds say nothing about it.",
    ),
    "width_not_calibrated": Rule(
        "no threshold for this width",
        "Use a profile calibrated on representations of this width.",
        "Kurtosis is bounded by about the number of features; the thresholds hold for the widths of the reference "
        "sets.",
    ),
    "other_statistic_version": Rule(
        "the profile is for another statistic",
        "Use a profile made for this version of robustcheck.",
        "A definition of a statistic changed between the profile and this version; the numbers are not comparable.",
    ),
    "batch_dependent": Rule(
        "an image's representation depends on its batch",
        "Export the model in eval mode.",
        "The representation of an image changed with the images beside it, as it does for a model exported in "
        "training mode (batch statistics). Its numbers are not a property of the model.",
    ),
    "output_changed": Rule(
        "reading the tensor changed the model's output",
        "Report the model; try another version of ONNX Runtime.",
        "With the representation as an extra output the model's own output came out different, so what was measured "
        "is not the model that will be deployed.",
    ),
    "unchecked": Rule(
        "a safety check could not be run",
        "Give at least two images, and a model whose output can be compared.",
        "Batch invariance or the model's own output was not checked, so PASS cannot be given.",
    ),
}

NAMES: dict[Statistic, str] = {
    "kurtosis": "activation kurtosis",
    "persistence_ratio": "persistence ratio",
    "top3_share": "top-3 share",
    "negative_energy": "negative energy",
}


class Reason(Frozen):
    """Why the verdict is WARN: a stable id, what was seen, what to do next."""

    id: str
    seen: str
    next_step: str


class Verdict(Frozen):
    """PASS, or WARN with every reason that applies."""

    verdict: Literal["PASS", "WARN"]
    reasons: tuple[Reason, ...]
    profile_id: str
    profile_digest: str


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


def below(interval: Interval, minimum: float) -> bool:
    """Whether the whole interval lies below the threshold."""
    return interval.high is not None and interval.high < minimum


def above(interval: Interval, minimum: float) -> bool:
    """Whether the whole interval lies above the threshold: the only thing that counts for PASS."""
    return interval.low is not None and interval.low > minimum


def decided(statistics: Statistics, profile: Profile) -> bool:
    """Whether more images could not change what the statistics say: the rule that stops the run.

    True once enough images were measured and either every interval lies above its threshold or one lies below.
    (That enough of them are varied is the caller's to know.)
    """
    if statistics.n_images < profile.min_images:
        return False
    pairs = [(getattr(statistics, s), profile.thresholds[s].minimum) for s in STATISTICS]
    return all(above(i, m) for i, m in pairs) or any(below(i, m) for i, m in pairs)


def judge(evidence: Evidence, profile: Profile) -> Verdict:
    """Judge the evidence against the profile.

    PASS needs every confidence bound above its threshold, enough varied photo-like images, and a comparable,
    trained, sound measurement. Everything else is WARN, with each reason that applies.

    Args:
        evidence: what was measured.
        profile: thresholds and what they hold for.

    Returns:
        The verdict; `reasons` is empty exactly if it is PASS.
    """
    seen = [
        *_comparable(evidence, profile),
        *_sound(evidence),
        *_sufficient(evidence, profile),
        *_strength(evidence.statistics, profile),
    ]
    reasons = tuple(Reason(id=i, seen=text, next_step=RULES[i].next_step) for i, text in seen)
    return Verdict(
        verdict="WARN" if reasons else "PASS",
        reasons=reasons,
        profile_id=profile.id,
        profile_digest=profile.digest,
    )


def _strength(s: Statistics, profile: Profile) -> list[tuple[str, str]]:
    minimum = {name: profile.thresholds[name].minimum for name in STATISTICS}
    intervals: dict[Statistic, Interval] = {name: getattr(s, name) for name in STATISTICS}
    out: list[tuple[str, str]] = []
    if below(s.negative_energy, minimum["negative_energy"]):
        out.append(
            (
                "rectified",
                f"negative energy is {_number(s.negative_energy.estimate)} "
                f"(upper bound {_number(s.negative_energy.high)}); signed representations have more than "
                f"{minimum['negative_energy']:g}",
            )
        )
    weak = [n for n in ("persistence_ratio", "top3_share") if below(intervals[n], minimum[n])]
    if weak:
        numbers = ", ".join(
            f"{NAMES[n]} {_number(intervals[n].estimate)} (upper bound {_number(intervals[n].high)}, "
            f"threshold {minimum[n]:g})"
            for n in weak
        )
        extreme = len(s.persistent)
        count = (
            f"{extreme} feature{'s are' if extreme != 1 else ' is'} beyond 6 SD in half of the images; "
            if extreme
            else ""
        )
        out.append(("no_persistent_outlier_features", count + numbers))
    if below(s.kurtosis, minimum["kurtosis"]):
        out.append(
            (
                "low_kurtosis",
                f"activation kurtosis is {_number(s.kurtosis.estimate)} (upper bound {_number(s.kurtosis.high)}); "
                f"the threshold is {minimum['kurtosis']:g}",
            )
        )
    open_ones = [n for n in STATISTICS if not above(intervals[n], minimum[n])]
    if open_ones and not out:
        numbers = ", ".join(
            f"{NAMES[n]} {_number(intervals[n].low)} to {_number(intervals[n].high)} (threshold {minimum[n]:g})"
            for n in open_ones
        )
        out.append(("undecided", f"after {s.n_images} images the interval does not clear the threshold: {numbers}"))
    return out


def _sufficient(e: Evidence, profile: Profile) -> list[tuple[str, str]]:
    sanity, s = e.images.sanity, e.statistics
    out: list[tuple[str, str]] = []
    enough = min(sanity.n_varied, s.n_images)
    if enough < profile.min_images:
        out.append(
            (
                "too_few_images",
                f"{enough} varied images were measured; at least {profile.min_images} are needed",
            )
        )
    out += [(finding.id, finding.seen) for finding in sanity.findings]
    if s.spread is None or s.spread < ALIKE_SPREAD:
        out.append(
            (
                "representations_alike",
                f"{_number(None if s.spread is None else 100 * s.spread)} % of the representation varies between "
                f"images; the threshold is {100 * ALIKE_SPREAD:g} %",
            )
        )
    return out


def _sound(e: Evidence) -> list[tuple[str, str]]:
    s, model = e.statistics, e.model
    total = s.n_images + s.n_nonfinite + s.n_constant
    out: list[tuple[str, str]] = []
    if s.n_nonfinite:
        out.append(("nonfinite_representations", f"{s.n_nonfinite} of {total} representations hold NaN or infinity"))
    if s.n_constant:
        out.append(("constant_representations", f"{s.n_constant} of {total} representations are constant"))
    dead = [f for f in s.persistent if f.relative_sd is not None and f.relative_sd < CONSTANT_SD]
    if dead:
        out.append(
            (
                "constant_feature",
                f"feature {', '.join(str(f.index) for f in dead)} has the same raw value in every image",
            )
        )
    if model.batch_difference is not None and model.batch_difference > SAME_NUMBERS:
        out.append(
            (
                "batch_dependent",
                f"a representation changed by {model.batch_difference:.2g} (relative) with its batch",
            )
        )
    if model.output_difference is not None and model.output_difference > SAME_NUMBERS:
        out.append(("output_changed", f"the model's own output changed by {model.output_difference:.2g} (relative)"))
    missing = [
        name
        for name, value in (
            ("batch invariance", model.batch_difference),
            ("own output", model.output_difference),
        )
        if value is None
    ]
    if missing:
        out.append(("unchecked", f"not checked: {', '.join(missing)}"))
    return out


def _comparable(e: Evidence, profile: Profile) -> list[tuple[str, str]]:
    model, s = e.model, e.statistics
    out: list[tuple[str, str]] = []
    if s.statistic_version != profile.statistic_version:
        out.append(
            (
                "other_statistic_version",
                f"the evidence has statistic version {s.statistic_version}, profile {profile.id} is for "
                f"{profile.statistic_version}",
            )
        )
    if model.random_weights:
        out.append(("untrained", "the file says that its weights are random"))
    if e.preprocessing.source == "assumed":
        out.append(("assumed_preprocessing", "neither the file, a sidecar nor an option says how to preprocess"))
    if model.tensor_assumed:
        out.append(("assumed_tensor", f"`{model.tensor}` was read: {model.why}"))
    if model.rule not in profile.tensor_rules or model.pool not in profile.pools:
        kind = model.rule if model.pool == "none" else f"{model.rule}, pooled by {model.pool}"
        out.append(
            (
                "tensor_not_calibrated",
                f"`{model.tensor}` is of the kind {kind}; profile {profile.id} holds for "
                f"{', '.join(profile.tensor_rules)}",
            )
        )
    if model.ends_in == "normalisation":
        out.append(("ends_in_normalisation", f"`{model.tensor}` is the output of a normalisation layer"))
    if not profile.min_features <= s.n_features <= profile.max_features:
        out.append(
            (
                "width_not_calibrated",
                f"the representation has {s.n_features} features; profile {profile.id} holds for "
                f"{profile.min_features} to {profile.max_features}",
            )
        )
    return out
