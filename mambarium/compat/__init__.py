"""The import names of the reference packages, served by our operations.

After `import mambarium.compat`, code that imports these names runs on our operations, on a CPU too:

    mamba_ssm.ops.selective_scan_interface      selective_scan_fn, mamba_inner_fn and what Vim's fork has beside them
    mamba_ssm.ops.triton.selective_state_update selective_state_update
    mamba_ssm.ops.triton.layer_norm             RMSNorm, layer_norm_fn, rms_norm_fn
    mamba_ssm.ops.triton.layernorm              the same, under the name of mamba_ssm up to 1.1
    causal_conv1d                               causal_conv1d_fn, causal_conv1d_update
    selective_scan_cuda_oflex                   fwd, bwd (VMamba's extension)

Importing is the one deliberate side effect of this package: it calls `install()`, which serves the packages that can't
be found. `install(replace=True)` serves the operations of packages that can be found too, such as a checkout of
mamba_ssm or Vim whose extension is not compiled; the rest of those packages stays theirs.
"""

from mambarium.compat.installation import install

__all__ = ["install"]

install()
