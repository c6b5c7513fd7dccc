"""The report: records, documents, and all their forms. Pure.

Comes in: a record, or what failed. May import: verdict, statistics, evidence, text, thresholds.
"""
