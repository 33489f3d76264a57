"""The Transformer to compare with."""
