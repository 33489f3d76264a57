"""Comparisons: tasks x backbones x seeds from one YAML file, each cell a run of its own.

Nothing here imports torch: every cell trains and tests in its own process.
"""
