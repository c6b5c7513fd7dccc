"""The panels of help: of options and of verbs, each in the order in which help shows them."""

from __future__ import annotations

OPTIONS = "Options"
IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI = "Images", "Model", "Verdict", "Output", "Speed", "Limits", "CI"
OPTION_PANELS = (OPTIONS, IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI)
FIRST, UNDERSTAND, THRESHOLDS, EVIDENCE, SET_UP = "Commands", "Look closer", "Thresholds", "Sign and register", "Set-up"
VERB_PANELS = (FIRST, UNDERSTAND, THRESHOLDS, EVIDENCE, SET_UP)
