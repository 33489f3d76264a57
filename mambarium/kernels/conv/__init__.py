"""Causal depthwise convolution: the operation, its plain reference and its fast backends."""
