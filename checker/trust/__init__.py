"""Let others rely on a verdict: `verify`, `sign`, pytest, MLflow."""
