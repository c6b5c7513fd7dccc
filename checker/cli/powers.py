"""What each setting can do to the gate: the one table, for `--strict` and for what reports say first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

Power = Literal["loosens", "hands over", "harmless"]


class Rule(NamedTuple):
    """What a setting can do to the gate."""

    power: Power
    """loosens: it can let a model through that the defaults stop. hands over: it has a key vouch.
    Both are refused by `--strict`. harmless: it moves no verdict"""
    why: str


LOOSENS: Final = "loosens"
HANDS_OVER: Final = "hands over"
HARMLESS: Final = "harmless"
POWERS: Final[Mapping[str, Rule]] = {
    "images": Rule(LOOSENS, "photos can be chosen that flatter a model"),
    "max-images": Rule(LOOSENS, "fewer images show less"),
    "max-bad": Rule(LOOSENS, "more images may be left out; a smaller share than the default loosens nothing"),
    "seed": Rule(LOOSENS, "other images come first"),
    "preprocess": Rule(LOOSENS, "the model gets other pixels than its file says"),
    "tensor": Rule(LOOSENS, "another tensor is measured"),
    "pool": Rule(LOOSENS, "another representation is measured"),
    "device": Rule(LOOSENS, "another provider than cpu and cuda may compute less exactly"),
    "provider-option": Rule(LOOSENS, "the provider may compute less exactly, in half precision for example"),
    "batch-size": Rule(LOOSENS, "a model is tried with other numbers of images at once; with 1, alone"),
    "thresholds": Rule(LOOSENS, "another profile judges"),
    "fail-on": Rule(LOOSENS, "WARN exits with 0"),
    "accept": Rule(LOOSENS, "a kind of WARN exits with 0"),
    "output": Rule(
        HARMLESS, "a file's outputs stay in its folder, in place of nothing but our own reports; none is a template"
    ),
    "sign": Rule(HANDS_OVER, "a key vouches for the verdict"),
    "quiet": Rule(HARMLESS, "less is shown"),
    "verbose": Rule(HARMLESS, "more is shown"),
    "no-thumbnails": Rule(HARMLESS, "less is shown"),
    "no-time": Rule(HARMLESS, "less is shown"),
    "color": Rule(HARMLESS, "the same is shown"),
    "log-file": Rule(HARMLESS, "a file's log stays in its folder, behind nothing but our own log"),
    "no-ci": Rule(HARMLESS, "less is shown"),
    "timeout": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "max-memory": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "max-model-size": Rule(HARMLESS, "a run can only end earlier, as an error"),
    "waivers": Rule(LOOSENS, "a WARN exits with 0"),
}
"""by key: every setting"""
