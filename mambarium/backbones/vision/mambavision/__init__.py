"""MambaVision."""
