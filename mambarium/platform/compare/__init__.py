"""Comparisons: tasks x backbones x seeds from one YAML file, each cell a run of its own.

`matrix` reads what is to be compared, `definition` says when two cells are the same experiment, `record`
knows how far a cell is, `process` starts a cell's commands and ties them to this process, `runner` runs the
cells one after another, `results` writes the long CSV file, `report` the table. `command.compare` joins them.
Nothing here imports torch: every cell trains and tests in its own process.
"""
