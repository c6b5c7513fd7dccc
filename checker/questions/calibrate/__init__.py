"""Turn a suite of models into a threshold profile. May import measure, report and what is below them."""
