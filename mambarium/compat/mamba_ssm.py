"""The names of the package `mamba_ssm` itself."""

from mambarium.compat.mamba_simple import Mamba
from mambarium.compat.selective_scan_interface import mamba_inner_fn, selective_scan_fn

__all__ = ["Mamba", "mamba_inner_fn", "selective_scan_fn"]
