"""Where other tools call the check: pytest, MLflow. Nothing is imported before it is used.

Comes in: a model or a report. May import: everything but cli.
"""
