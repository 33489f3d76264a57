"""The import names of the reference packages, served by our operations.

After `import mambarium.compat`, code that imports these names runs on our operations, on a CPU too:

    mamba_ssm                                   Mamba, selective_scan_fn, mamba_inner_fn
    mamba_ssm.modules.mamba_simple              Mamba
    mamba_ssm.ops.selective_scan_interface      selective_scan_fn, mamba_inner_fn and what Vim's fork has beside them
    mamba_ssm.ops.triton.selective_state_update selective_state_update
    mamba_ssm.ops.triton.layer_norm             RMSNorm, layer_norm_fn, rms_norm_fn
    mamba_ssm.ops.triton.layernorm              the same, under the name of mamba_ssm up to 1.1
    causal_conv1d                               causal_conv1d_fn, causal_conv1d_update
    causal_conv1d.causal_conv1d_varlen          causal_conv1d_varlen_states
    causal_conv1d.cpp_functions                 causal_conv1d_fwd_function, ..._bwd_function, ..._update_function
    causal_conv1d_cuda                          the extension of causal_conv1d, since 1.2
    selective_scan_cuda                         fwd, bwd (the extension of mamba_ssm)
    selective_scan_cuda_core, ..._oflex         fwd, bwd (the extensions of VMamba)

Importing is the one deliberate side effect of this package: it calls `install()`, which says what is served where
packages of these names are there.
"""

from mambarium.compat.installation import install

__all__ = ["install"]

install()
