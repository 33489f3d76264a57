"""Tensor operations of state space models, each with a plain reference and fast backends.

They know nothing of modules, tasks or files, and import with torch and numpy alone.
"""

from mambarium.kernels.conv.causal_conv1d import causal_conv1d
from mambarium.kernels.grid.grid_scan import grid_scan
from mambarium.kernels.grid.routes import BIDIRECTIONAL, CROSS, Route
from mambarium.kernels.scan.selective_scan import selective_scan
from mambarium.kernels.step.selective_state_update import selective_state_update
from mambarium.kernels.warmup import warm_up

__all__ = [
    "BIDIRECTIONAL",
    "CROSS",
    "Route",
    "causal_conv1d",
    "grid_scan",
    "selective_scan",
    "selective_state_update",
    "warm_up",
]
