"""The functions of `selective_scan_cuda_core`, the extension of VMamba before `selective_scan_cuda_oflex`.

Its `fwd` takes all arguments but the last of the other one's, and gives an output of u's dtype.
"""

from functools import partial

from mambarium.compat import vmamba_oflex
from mambarium.compat.vmamba_oflex import bwd

__all__ = ["bwd", "fwd"]

fwd = partial(vmamba_oflex.fwd, out_float=False)
