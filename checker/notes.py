"""What a reader of the report should know beside the verdict, in sentences; pure."""

from __future__ import annotations

from robustcheck_onnx.checker.evidence import Evidence
from robustcheck_onnx.thresholds import profile as profiles
from robustcheck_onnx.thresholds.profile import Profile


def notes_of(evidence: Evidence, profile: Profile) -> tuple[str, ...]:
    """One sentence for each choice or circumstance that the verdict rests on.

    Args:
        evidence: what was measured.
        profile: what it was judged by.
    """
    notes = []
    default = profiles.load()
    if profile.digest != default.digest:
        notes.append(
            f"The thresholds are not the default profile ({default.id}, {default.digest[:19]}) but {profile.id} "
            f"({profile.digest[:19]}), given with --thresholds: what PASS means is that profile's to say."
        )
        if profile.edited:
            notes.append(f"The profile was changed by hand: {profile.edited}.")
        if looser := profiles.looser_than(profile, default):
            notes.append(f"The profile is looser than the default in places: {'; '.join(looser)}.")
        if profile.calibration.missing:
            n = len(profile.calibration.missing)
            notes.append(f"The profile's calibration is not complete: {n} models of its suite were not measured.")
    if evidence.model.synthetic:
        notes.append(f"Synthetic model: {evidence.model.synthetic}.")
    if evidence.images.bundled:
        notes.append("The bundled photos were used; a release gate wants your own in-distribution images (--images).")
    execution = evidence.execution
    if execution.fallback_reason:
        notes.append(f"The CPU was used: {execution.fallback_reason}.")
    if execution.heavy_on_cpu:
        heavy = ", ".join(f"{n} {op}" for op, n in execution.heavy_on_cpu.items())
        notes.append(f"Although a GPU was used, heavy nodes ran on the CPU: {heavy}.")
    if execution.optimization != "all":
        notes.append(
            f"Graph optimisation was lowered to {execution.optimization}: with it, reading the representation changed "
            "the model's own output."
        )
    if evidence.images.n_skipped:
        first = "; ".join(f"{name}: {reason}" for name, reason in evidence.images.skipped[:3])
        notes.append(f"{evidence.images.n_skipped} of {evidence.images.n_read} images were skipped ({first}).")
    notes += [
        f"Detector {d.name} {d.version}, a plug-in, adds no reason for WARN: {d.text}"
        for d in evidence.detectors
        if d.finding == "ok"
    ]
    return tuple(notes)
