"""The check inside other tools: pytest and MLflow, which are imported only where they are used.

Comes in: a model or a report. May import: everything but cli.
"""
