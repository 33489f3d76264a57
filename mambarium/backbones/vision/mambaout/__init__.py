"""MambaOut."""
