"""Turn evidence into a verdict, reasons, and an exit code. All of it is pure.

Comes in: `Evidence` and a threshold profile.
"""
