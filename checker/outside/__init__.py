"""Reach what is not in this process: files, URLs, hubs, image sets, child processes and workers."""
