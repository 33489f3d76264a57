"""The selective state-space model with its short convolution: the part that Mamba and Vim share."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.contract import KernelUser
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.kernels import causal_conv1d, selective_scan, selective_state_update
from mambarium.kernels.transforms import under_transforms

DELTA_MIN, DELTA_MAX, DELTA_FLOOR = 1e-3, 1e-1, 1e-4


class SelectiveSSM(KernelUser, nn.Module):
    """Causal convolution, selection of delta, B and C from the input, scan, skip and gate.

    Section 3 of "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (Gu and Dao 2023), as in
    the official `mamba_simple.py`:

        x = silu(conv(x)),  delta_low, B, C = x_proj(x),  delta = softplus(dt_proj(delta_low))
        h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t,  y_t = (C_t h_t + D x_t) silu(z_t)

    Args:
        d_inner: Number of channels, each with its own state.
        d_state: Size of one channel's state.
        d_conv: Width of the causal convolution.
        dt_rank: Rank of the projection to delta.
    """

    operations = (causal_conv1d, selective_scan)
    no_weight_decay = ("A_log", "D")

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv, self.dt_rank = d_inner, d_state, d_conv, dt_rank
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.empty(d_inner, d_state, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(d_inner, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start from A = -(1..d_state) (S4D-real), D = 1, and softplus(delta bias) log-uniform in [0.001, 0.1]."""
        reset_delta(self.dt_proj.weight, self.dt_proj.bias)
        reset_s4d_real(self.A_log, self.D)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Zeros: the last inputs of the convolution, and the scan's state, which is always float32."""
        convolution = (batch_size, self.d_inner, self.d_conv - 1)
        scan = (batch_size, self.d_inner, self.d_state)
        return {
            "convolution": torch.zeros(convolution, device=device, dtype=dtype),
            "scan": torch.zeros(scan, device=device, dtype=torch.float32),
        }

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        state: dict[str, Tensor] | None = None,
        boundaries: Boundaries | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Run over a chunk x with gate z (batch, length, d_inner), from a state as `initial_state` has it, or afresh.

        With `reverse` the sequence is read from its end to its start, without state and boundaries. Returns the same
        shape, and the new state, None if there was none.
        """
        # Under vmap and the like a step would have to change a state that it was not made for.
        if state is not None and x.shape[1] == 1 and not torch.is_grad_enabled() and not under_transforms():
            return self._step(x[:, 0], z[:, 0], state, boundaries)
        history, scan_state = (None, None) if state is None else (state["convolution"], state["scan"])
        segment, reset = (None, None) if boundaries is None else (boundaries.segment, boundaries.reset)
        if history is not None and reset is not None:
            history = history.masked_fill(reset[:, :1, None], 0.0)

        # Transposed views (batch, d_inner, length) of channel-last memory: nothing is copied.
        convolved, history = _with_state(
            causal_conv1d(
                x.transpose(1, 2),
                self.conv1d.weight.squeeze(1),
                self.conv1d.bias,
                seq_idx=segment,
                initial_states=history,
                return_final_states=state is not None,
                activation="silu",
                reverse=reverse,
            )
        )
        selected = self.x_proj(convolved.transpose(1, 2))  # (batch, length, dt_rank + 2 * d_state)
        delta_low, B, C = selected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(delta_low, self.dt_proj.weight)  # the scan adds the bias
        y, scan_state = _with_state(
            selective_scan(
                convolved,
                delta.transpose(1, 2),
                -torch.exp(self.A_log.float()),
                B.transpose(1, 2),
                C.transpose(1, 2),
                self.D,
                z.transpose(1, 2),
                self.dt_proj.bias,
                delta_softplus=True,
                return_last_state=state is not None,
                initial_state=scan_state,
                reset=reset,
                reverse=reverse,
            )
        )
        if state is None or history is None or scan_state is None:
            return y.transpose(1, 2), None
        return y.transpose(1, 2), {
            "convolution": history.to(state["convolution"].dtype),
            "scan": scan_state,
        }

    def _step(
        self, x: Tensor, z: Tensor, state: dict[str, Tensor], boundaries: Boundaries | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`forward` of one position x, z (batch, d_inner) without gradients, which needs no kernel for sequences."""
        history, scan_state = state["convolution"], state["scan"]
        if boundaries is not None:
            begins = boundaries.reset[:, :1, None]
            history, scan_state = history.masked_fill(begins, 0.0), scan_state.masked_fill(begins, 0.0)
        window = torch.cat([history.to(x.dtype), x.unsqueeze(-1)], dim=-1)  # (batch, d_inner, d_conv)
        exact = torch.promote_types(x.dtype, torch.float32)
        products = window.to(exact) * self.conv1d.weight.squeeze(1).to(exact)
        assert self.conv1d.bias is not None
        convolved = F.silu(products.sum(dim=-1) + self.conv1d.bias.to(exact)).to(x.dtype)
        selected = self.x_proj(convolved)  # (batch, dt_rank + 2 * d_state)
        delta_low, B, C = selected.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta, A = F.linear(delta_low, self.dt_proj.weight), -torch.exp(self.A_log.float())
        scan_state = scan_state.clone()
        y = selective_state_update(
            scan_state, convolved, delta, A, B, C, self.D, z, self.dt_proj.bias, dt_softplus=True
        )
        return y.unsqueeze(1), {"convolution": window[..., 1:].to(state["convolution"].dtype), "scan": scan_state}


def scan_tokens(x: Tensor, delta: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """`selective_scan` of x and delta (batch, length, dim), B and C (batch, length, d_state); nothing is copied."""
    y = selective_scan(
        x.transpose(1, 2),
        delta.transpose(1, 2),
        -torch.exp(A_log.float()),
        B.transpose(1, 2),
        C.transpose(1, 2),
        D,
        delta_bias=delta_bias,
        delta_softplus=True,
    )
    return y.transpose(1, 2)


@torch.no_grad()
def reset_s4d_real(A_log: Tensor, D: Tensor) -> None:
    """Start from A = -(1..d_state) in each row (S4D-real), D = 1."""
    A_log.copy_(torch.arange(1, A_log.shape[-1] + 1, dtype=torch.float32, device=A_log.device).log())
    D.fill_(1.0)


@torch.no_grad()
def reset_delta(weight: Tensor, bias: Tensor) -> None:
    """Draw a time step's projection (..., dim, dt_rank), and a bias with softplus(bias) log-uniform in [0.001, 0.1]."""
    bound = weight.shape[-1] ** -0.5
    weight.uniform_(-bound, bound)
    log_delta = torch.empty_like(bias).uniform_(math.log(DELTA_MIN), math.log(DELTA_MAX))
    delta = log_delta.exp_().clamp_(min=DELTA_FLOOR)
    bias.copy_(delta + torch.log(-torch.expm1(-delta)))  # inverse of softplus


def _with_state(result: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    return result if isinstance(result, tuple) else (result, None)
