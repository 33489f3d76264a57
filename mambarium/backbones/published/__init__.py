"""Formats of published checkpoints, one module per family: what our parameters are called there."""
