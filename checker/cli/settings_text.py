"""Settings as text: what `--show-settings` shows, and the commented file that `init` writes."""

from __future__ import annotations

from typing import Any

from robustcheck_onnx.checker.storage.places import redact_text

from .settings import FIELDS, Resolved, Settings


def _in_short(waiver: dict[str, Any]) -> str:
    of = "" if waiver["models"] == ["*"] else f" for {', '.join(waiver['models'])}"
    return f"{waiver['reason']}{of}, until {waiver['expires']} by {waiver['owner']}"


def value_text(key: str, value: object) -> str:
    """A setting's value as text; for one that is not set, what happens instead."""
    if isinstance(value, bool):
        return str(value).lower()  # as it is written in a file
    if isinstance(value, list) and value:
        return "; ".join(_in_short(entry) if isinstance(entry, dict) else str(entry) for entry in value)
    if value not in (None, []):
        return str(value)
    about = Settings.model_fields[FIELDS[key]].description or ""
    _, _, instead = about.partition("Default: ")
    return "none" if instead in ("", "none.") else f"not set: {instead.removesuffix('.')}"


def settings_json(resolved: Resolved) -> dict[str, Any]:
    """Every setting with its value and source, as a JSON document."""
    values = resolved.settings.model_dump(mode="json", by_alias=True)
    for key in ("images", "preprocess", "thresholds", "output"):  # a URL shows no key
        values[key] = (
            list(map(redact_text, values[key])) if key == "output" else values[key] and redact_text(values[key])
        )
    settings = {key: {"value": value, "source": resolved.source(key)} for key, value in values.items()}
    return {"schema_version": 1, "tool": "robustcheck", "file": resolved.file, "settings": settings}


EXAMPLES: dict[str, object] = {
    "timeout": 600,
    "max-memory": "8GiB",
    "max-model-size": "2GiB",
    "images": "photos/",
    "max-images": 500,
    "preprocess": "clip",
    "tensor": "image_embedding",
    "pool": "none",
    "thresholds": "default",
    "provider-option": ("use_tf32=1",),
    "accept": "not_applicable",
    "output": ("terminal", "json=report.json"),
    "sign": "key.pem",
    "log-file": "robustcheck.log",
}
"""What `init` writes for settings without a default value."""


def template() -> str:
    """A commented robustcheck.toml: every key with its default or an example, and one line about it."""
    lines = [
        "# Settings of `robustcheck check`. To change one, remove the # in front of its name. The command line and",
        "# variables (ROBUSTCHECK_MAX_IMAGES=…) count before this file.",
        "# Paths count from this file's folder. `robustcheck check --show-settings` shows what holds, and from where.",
        "# With --strict, as in pipelines, what loosens the gate counts from the command line alone.",
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
