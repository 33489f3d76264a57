"""The functions of `mamba_ssm.ops.triton.selective_state_update`."""

from functools import partial

from mambarium.kernels import selective_state_update

__all__ = ["selective_state_update", "selective_state_update_ref"]

selective_state_update_ref = partial(selective_state_update, backend="reference")
