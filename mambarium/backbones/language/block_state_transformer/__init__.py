"""The Block-State Transformer."""
