"""Accuracy on labelled shifted images next to the verdict.

Comes in: a model with a head and labelled image sets. May import: measure, report and what is below them.
"""
