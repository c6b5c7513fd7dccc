"""Integrate the check into pytest and MLflow. Both are imported only where they are used.

Comes in: a model or a report. May import: everything but cli.
"""
