"""Exact resume: a fit that is stopped anywhere goes on bit for bit when the same command is run again."""
