"""Outlier features through the depth of a network.

Comes in: one model. May import: measure, report and what is below them.
"""
