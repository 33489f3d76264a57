"""MoE-Mamba."""
