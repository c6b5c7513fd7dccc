"""Turn models and image sets into evidence. The room has the loop, its jobs, workers, and Ray.

Comes in: a `Job`. May import: runtime, verdict (when to stop), and what is below them. Judges nothing.
"""
