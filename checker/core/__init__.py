"""Turn a local model and photos into a verdict. Knows no URL, child process, report form or option."""
