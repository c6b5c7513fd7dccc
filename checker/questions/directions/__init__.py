"""Analyse the directions of a classifier's linear head. Which weigh most, and what is left without the others?

Comes in: a model with a head, or with the head's file, and images. May import: shift (labels, effective robustness),
measure, report and what is below them.
"""
