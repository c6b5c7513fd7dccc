"""Find concepts along single directions of a representation. Each is compared with what chance gives.

Comes in: a model and a concept set. May import: measure, report and what is below them.
"""
