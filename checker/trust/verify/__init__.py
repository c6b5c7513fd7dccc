"""Check reports, sign verdicts, and check signatures.

Comes in: a JSON report. May import: pipeline and what is below it.
"""
