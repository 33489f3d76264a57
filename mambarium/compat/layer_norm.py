"""What `mamba_ssm.ops.triton.layer_norm` is imported for, in plain PyTorch.

Official Mamba and Vim code imports the norms from there; they are no operations of ours.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["RMSNorm", "layer_norm_fn", "rms_norm_fn"]


def layer_norm_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    residual: Tensor | None = None,
    *,
    eps: float = 1e-6,
    dropout_p: float = 0.0,
    prenorm: bool = False,
    residual_in_fp32: bool = False,
    is_rms_norm: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Layer norm of x + residual, computed in float32.

    The arguments of the same names there; a second branch, row scales and dropout masks are not served. What
    follows `residual` must be given by name, as official code does.

    Args:
        x: (..., width).
        weight: (width,).
        bias: (width,), or None.
        residual: as x, or None.
        eps: added to the variance.
        dropout_p: probability of setting a value of x to zero.
        prenorm: whether the sum is returned too.
        residual_in_fp32: whether the sum is float32 where there is no residual; else it has the residual's dtype.
        is_rms_norm: whether the mean is left as it is.

    Returns:
        The norm, of x's dtype, or (norm, sum).
    """
    total = F.dropout(x, dropout_p).float() if dropout_p > 0 else x.float()
    if residual is not None:
        total = total + residual.float()
    scale, shift = weight.float(), None if bias is None else bias.float()
    if is_rms_norm:
        normalized = F.rms_norm(total, total.shape[-1:], scale, eps)
        if shift is not None:
            normalized = normalized + shift
    else:
        normalized = F.layer_norm(total, total.shape[-1:], scale, shift, eps)
    normalized = normalized.to(x.dtype)
    if not prenorm:
        return normalized
    sum_dtype = torch.float32 if residual_in_fp32 else x.dtype
    return normalized, total.to(sum_dtype if residual is None else residual.dtype)


rms_norm_fn = partial(layer_norm_fn, is_rms_norm=True)


class RMSNorm(nn.Module):
    """Root mean square norm of a sum, with the parameter names of the class there."""

    def __init__(
        self,
        hidden_size: int,
        eps: float = 1e-5,
        dropout_p: float = 0.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps, self.dropout_p = eps, dropout_p
        self.weight = nn.Parameter(torch.ones(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, prenorm: bool = False, residual_in_fp32: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See `layer_norm_fn`."""
        dropout_p = self.dropout_p if self.training else 0.0
        options = {"prenorm": prenorm, "residual_in_fp32": residual_in_fp32}
        return rms_norm_fn(x, self.weight, None, residual, eps=self.eps, dropout_p=dropout_p, **options)
