"""The panels of help: of options and of verbs, each in the order in which help shows them."""

from __future__ import annotations

OPTIONS = "Options"
IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI = "Images", "Model", "Verdict", "Output", "Speed", "Limits", "CI"
OPTION_PANELS = (OPTIONS, IMAGES, MODEL, VERDICT, OUTPUT, SPEED, LIMITS, CI)
GATE, UNDERSTAND, PREPARE, EVIDENCE, SET_UP = "Gate", "Understand", "Prepare", "Evidence", "Set-up"
VERB_PANELS = (GATE, UNDERSTAND, PREPARE, EVIDENCE, SET_UP)
