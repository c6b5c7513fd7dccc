"""The commented robustcheck.toml that `robustcheck init` writes."""

from __future__ import annotations

from robustcheck_onnx.checker.config import FIELDS, Settings

EXAMPLES: dict[str, object] = {
    "images": "photos/",
    "max-images": 500,
    "preprocess": "clip",
    "tensor": "image_embedding",
    "pool": "none",
    "thresholds": "default",
    "detector": ("NAME",),
    "workers": 4,
    "ray-address": "auto",
    "output": ("terminal", "json=report.json"),
    "sign": "key.pem",
    "log-file": "robustcheck.log",
}
"""What `init` shows for settings that have no value by default."""


def template() -> str:
    """A commented robustcheck.toml: every key with its default or an example, and one line about it."""
    lines = [
        "# Settings of `robustcheck check`. Lines that start with # and a blank are prose; take the # away from one of",
        "# the others to set it. The command line and variables (ROBUSTCHECK_MAX_IMAGES=…) count before this file.",
        "# Paths count from this file's folder. `robustcheck check --show-settings` shows what holds, and from where.",
    ]
    for key, name in FIELDS.items():
        if name == "waivers":
            continue
        about = Settings.model_fields[name]
        value = EXAMPLES.get(key, about.default)
        lines += ["", f"# {about.description}", f"#{key} = {toml(value)}"]
    return "\n".join(lines) + "\n" + WAIVER_TEMPLATE


WAIVER_TEMPLATE = """
# An accepted reason for WARN: it no longer fails the run, up to and with the day in `expires`. The report still says
# WARN, and who accepted what. `models`: globs of the model's path as it is typed. One such table for each reason.
#[[waivers]]
#reason = "too_few_images"
#because = "the model sees ten scenes in all"
#owner = "name@example.org"
#expires = 2026-12-31
#models = ["*"]
"""


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, int | float):
        return str(value)
    return '"' + str(value) + '"'
