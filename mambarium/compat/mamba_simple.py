"""What `mamba_ssm.modules.mamba_simple` is imported for: Mamba's block (Gu and Dao, 2023, arXiv 2312.00752)."""

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mambarium.compat.causal_conv import causal_conv1d_update
from mambarium.compat.selective_scan_interface import selective_scan_fn
from mambarium.kernels import causal_conv1d, selective_state_update

__all__ = ["Mamba"]


class Mamba(nn.Module):
    """Mamba's block, with the arguments and the parameters' names, shapes and initial values of the class there.

    Args:
        d_model: width of input and output.
        d_state: states per channel.
        d_conv: taps of the convolution, 2 to 4.
        expand: channels inside, as a multiple of d_model.
        dt_rank: rank of the projection to the time step, "auto" for d_model / 16.
        dt_min: least initial time step.
        dt_max: largest initial time step.
        dt_init: whether the time step's projection starts "constant" or "random".
        dt_scale: scale of its initial values.
        dt_init_floor: what an initial time step is raised to.
        conv_bias: whether the convolution has a bias.
        bias: whether the projections of input and output have one.
        use_fast_path: without effect: every path is ours.
        layer_idx: the layer's key in the states that inference_params holds.
        device: of the parameters.
        dtype: of the parameters; A_log and D are float32.

    Raises:
        ValueError: dt_init is neither.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        dt_init: Literal["constant", "random"] = "random",
        dt_scale: float = 1.0,
        dt_init_floor: float = 1e-4,
        conv_bias: bool = True,
        bias: bool = False,
        use_fast_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if dt_init not in ("constant", "random"):
            raise ValueError(f"dt_init: expected 'constant' or 'random'; found {dt_init!r}")
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        self.use_fast_path, self.layer_idx, self.activation = use_fast_path, layer_idx, "silu"
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.in_proj = nn.Linear(d_model, 2 * inner, bias, **factory)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, padding=d_conv - 1, groups=inner, bias=conv_bias, **factory)
        self.x_proj = nn.Linear(inner, self.dt_rank + 2 * d_state, bias=False, **factory)
        self.dt_proj = nn.Linear(self.dt_rank, inner, **factory)
        rows = torch.arange(1, d_state + 1, dtype=torch.float32, device=device).log()
        self.A_log = nn.Parameter(rows.repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner, dtype=torch.float32, device=device))
        self.out_proj = nn.Linear(inner, d_model, bias, **factory)
        with torch.no_grad():
            bound = dt_scale * self.dt_rank**-0.5
            if dt_init == "constant":
                self.dt_proj.weight.fill_(bound)
            else:
                self.dt_proj.weight.uniform_(-bound, bound)
            exponents = torch.empty(inner, **factory).uniform_(math.log(dt_min), math.log(dt_max))
            steps = exponents.exp().clamp(min=dt_init_floor)
            self.dt_proj.bias.copy_(steps + (-torch.expm1(-steps)).log())  # what softplus makes the step of
        # The marks that training code of mamba_ssm looks for.
        self.dt_proj.bias._no_reinit = True  # type: ignore[attr-defined]  # tensors have room for it
        self.A_log._no_weight_decay = True  # type: ignore[attr-defined]  # tensors have room for it
        self.D._no_weight_decay = True  # type: ignore[attr-defined]  # tensors have room for it

    def forward(self, hidden_states: Tensor, inference_params: Any = None) -> Tensor:
        """Mixes along time.

        Args:
            hidden_states: (batch, length, d_model).
            inference_params: as in mamba_ssm, an object with `seqlen_offset` and `key_value_memory_dict`, or None. With
                it the states after the last position are kept; where seqlen_offset is above 0, one position goes on
                from them.

        Returns:
            As hidden_states.
        """
        states = None
        if inference_params is not None:
            states = self._kept_states(inference_params, hidden_states.shape[0])
            if inference_params.seqlen_offset > 0:
                return self.step(hidden_states, *states)[0]
        x, z = self.in_proj(hidden_states).transpose(1, 2).chunk(2, dim=1)
        convolved = causal_conv1d(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, activation="silu")
        dt, B, C = self._select(convolved.transpose(1, 2))
        rows = (dt.transpose(1, 2), -torch.exp(self.A_log.float()), B.transpose(1, 2), C.transpose(1, 2))
        scanned, last_state = selective_scan_fn(
            convolved, *rows, self.D.float(), z, self.dt_proj.bias.float(), True, return_last_state=True
        )
        if states is not None:
            with torch.no_grad():
                states[0].copy_(F.pad(x, (self.d_conv - x.shape[-1], 0)))
                states[1].copy_(last_state)
        out: Tensor = self.out_proj(scanned.transpose(1, 2))
        return out

    def step(self, hidden_states: Tensor, conv_state: Tensor, ssm_state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One position.

        Args:
            hidden_states: (batch, 1, d_model).
            conv_state: (batch, d_inner, d_conv), updated in place.
            ssm_state: (batch, d_inner, d_state), updated in place.

        Returns:
            The output, as hidden_states, and the states.

        Raises:
            ValueError: there are several positions.
        """
        if hidden_states.shape[1] != 1:
            raise ValueError(f"hidden_states: expected one position to go on with; found {hidden_states.shape[1]}")
        x, z = self.in_proj(hidden_states.squeeze(1)).chunk(2, dim=-1)
        x = causal_conv1d_update(x, conv_state, self.conv1d.weight.squeeze(1), self.conv1d.bias, "silu")
        dt, B, C = self._select(x)
        A = -torch.exp(self.A_log.float())
        y = selective_state_update(ssm_state, x, dt, A, B, C, self.D, z, self.dt_proj.bias, True)
        return self.out_proj(y).unsqueeze(1), conv_state, ssm_state

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """States before the first position: zeros for `step`; max_seqlen and more are without effect."""
        conv, projection = self.conv1d.weight, self.dt_proj.weight
        return (
            conv.new_zeros(batch_size, self.d_inner, self.d_conv, dtype=dtype or conv.dtype),
            projection.new_zeros(batch_size, self.d_inner, self.d_state, dtype=dtype or projection.dtype),
        )

    def _select(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the time step before its bias, B and C of x, (..., d_inner)."""
        low, B, C = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return F.linear(low, self.dt_proj.weight), B, C

    def _kept_states(self, inference_params: Any, batch_size: int) -> tuple[Tensor, Tensor]:
        kept: dict[int, tuple[Tensor, Tensor]] = inference_params.key_value_memory_dict
        if self.layer_idx is None:
            raise ValueError(
                "layer_idx: expected the layer's number, which inference_params keeps the states by; found None"
            )
        if self.layer_idx not in kept:
            kept[self.layer_idx] = self.allocate_inference_cache(batch_size, 0)
        return kept[self.layer_idx]
