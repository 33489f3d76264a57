"""A selective scan in plain PyTorch as fast as it could be made, for comparison.

Per chunk of positions everything but the recurrence is computed in a few large operations whose results stay in
the cache; the recurrence is one in-place operation per position, on (batch, d_state, dim) with channels adjacent. The
backward is written out: it recomputes a chunk's states from the state before it.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def torch_selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    chunk: int | None,
) -> Tensor:
    """Run the selective scan of `mambarium.kernels.selective_scan` with softplus, for channel-last memory.

    Args:
        u: (batch, length, dim).
        delta: (batch, length, dim), before bias and softplus.
        A: (dim, d_state).
        B: (batch, length, d_state).
        C: (batch, length, d_state).
        D: (dim,).
        delta_bias: (dim,).
        chunk: positions that are computed at once but for the recurrence; 1 is the loop that one usually writes.
            None: as many as are fastest.

    Returns:
        (batch, length, dim), of u's dtype.
    """
    x = u.float()
    step = F.softplus(delta.float() + delta_bias)
    fastest = 8 if A.shape[1] > 4 else 64
    y: Any = _Recurrence.apply(step, step * x, A, B.float(), C.float(), chunk or fastest)
    return torch.addcmul(y, D, x).to(u.dtype)


class _Recurrence(torch.autograd.Function):
    """y[t] = sum over states of C[t] * h[t], with h[t] = exp(step[t] * A) * h[t - 1] + B[t] * x[t]."""

    @staticmethod
    def forward(ctx: Any, step: Tensor, x: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk: int) -> Tensor:
        batch, length, dim = x.shape
        step, x, B, C = (_position_first(value) for value in (step, x, B, C))
        decay_rates = A.t().contiguous()  # (d_state, dim)
        out = x.new_empty(length, batch, 1, dim)
        starts = x.new_empty(-(-length // chunk), batch, A.shape[1], dim)
        state = x.new_zeros(batch, A.shape[1], dim)
        for index, first in enumerate(range(0, length, chunk)):
            part = slice(first, first + chunk)
            starts[index] = state
            _, states = _chunk_states(state, step[part], x[part], decay_rates, B[part])
            torch.matmul(C[part, :, None], states, out=out[part])
            state = states[-1]
        ctx.save_for_backward(step, x, decay_rates, B, C, starts)
        ctx.chunk = chunk
        return out.squeeze(2).transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        step, x, decay_rates, B, C, starts = ctx.saved_tensors
        grad_out = _position_first(grad_outputs[0])  # (length, batch, dim)
        grad_step, grad_x, grad_B, grad_C = (torch.empty_like(value) for value in (step, x, B, C))
        grad_rates = torch.zeros_like(decay_rates)
        carried = torch.zeros_like(starts[0])
        for index in reversed(range(starts.shape[0])):
            part = slice(index * ctx.chunk, (index + 1) * ctx.chunk)
            start = starts[index]
            decay, states = _chunk_states(start, step[part], x[part], decay_rates, B[part])
            grad = grad_out[part, :, None]  # (chunk, batch, 1, dim)
            torch.matmul(states, grad.mT, out=grad_C[part].unsqueeze(-1))
            adjoint = C[part, ..., None] * grad  # (chunk, batch, d_state, dim)
            adjoint[-1] += carried
            for t in reversed(range(adjoint.shape[0] - 1)):
                adjoint[t].addcmul_(decay[t + 1], adjoint[t + 1])
            torch.matmul(adjoint, x[part, :, None].mT, out=grad_B[part].unsqueeze(-1))
            torch.matmul(B[part, :, None], adjoint, out=grad_x[part].unsqueeze(2))
            adjoint.mul_(decay)
            carried = adjoint[0].clone()
            adjoint[1:].mul_(states[:-1])
            adjoint[0].mul_(start)
            torch.sum(adjoint * decay_rates, 2, out=grad_step[part])
            grad_rates += adjoint.mul_(step[part, :, None]).sum((0, 1))
        rows = (value.transpose(0, 1) for value in (grad_step, grad_x))
        return *rows, grad_rates.t(), grad_B.transpose(0, 1), grad_C.transpose(0, 1), None


def _position_first(x: Tensor) -> Tensor:
    return x.transpose(0, 1).contiguous()


def _chunk_states(state: Tensor, step: Tensor, x: Tensor, decay_rates: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Return the decays and the states after each position of a chunk, (chunk, batch, d_state, dim)."""
    decay = torch.mul(step[:, :, None], decay_rates).exp_()
    states = torch.mul(x[:, :, None], B[..., None])
    for t in range(states.shape[0]):
        state = states[t].addcmul_(decay[t], state)
    return decay, states
