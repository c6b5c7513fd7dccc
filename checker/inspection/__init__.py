"""What a model file holds, and whether it can pass; may import measure, runtime and what is below them."""
