"""Backbones for sequences of tokens."""
