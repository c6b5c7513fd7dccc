"""The report: one record and all its forms. It is pure.

Comes in: a `Report`, or what failed. May import: verdict, statistics, evidence, text, thresholds.
"""
