"""A suite of models becomes a threshold profile; may import measure, report and what is below them."""
