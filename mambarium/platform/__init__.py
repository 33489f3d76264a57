"""Everything around a task: command line, data, exact resume, comparing."""
