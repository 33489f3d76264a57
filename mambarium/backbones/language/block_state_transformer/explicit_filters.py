"""Convolution with long filters that a small network draws from the distance."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mambarium.backbones.layers.arguments import check_at_least
from mambarium.backbones.layers.diagonal_ssm import Blocks, cut_into_blocks
from mambarium.backbones.layers.sequences import Boundaries

NUM_WAVES = 4
HIDDEN = 64
DECAY_TO = 1e-2
FASTEST, SLOWEST = 0.3, 1.5


class ExplicitFilters(nn.Module):
    """Channels with one or several causal filters each, and a skip.

    The unstructured filters of "Block-State Transformers" (Pilault et al. 2023, arXiv 2306.09539, section 3.3), which
    follow "Hyena Hierarchy" (Poli et al. 2023, arXiv 2302.10866, section 3.3):

        h(t) = exp(-alpha t) MLP(encoding(t)) for 0 <= t < filter_length,  y = h * u + D u

    The encoding is t / filter_length with its first sines and cosines, the network has two hidden layers of sines. Each
    channel learns its alpha, which starts between the rates that Hyena fixes: exp(-alpha t) is 0.01 from 0.3 to 1.5
    filter lengths on. Filters end at `filter_length`, so the inputs of so many positions are all that there is to
    remember. They are applied as matrix products, block by block, in which no position sees the future, not even by
    rounding, as it would through a Fourier transform.
    """

    no_weight_decay = ("D",)

    def __init__(self, num_channels: int, filter_length: int, num_filters: int | None = None) -> None:
        super().__init__()
        check_at_least("filter_length", filter_length, 1)
        if num_filters is not None:
            check_at_least("num_filters", num_filters, 1)
        self.num_channels, self.filter_length, self.num_filters = num_channels, filter_length, num_filters
        outputs = num_channels * (num_filters or 1)
        self.mlp = nn.ModuleList(
            [nn.Linear(1 + 2 * NUM_WAVES, HIDDEN), nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, outputs, bias=False)]
        )
        self.log_decay = nn.Parameter(torch.empty(num_channels))
        self.D = nn.Parameter(torch.empty(num_channels, num_filters or 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Decays from the fastest to the slowest, D standard normal; the network as torch draws it."""
        shares = torch.linspace(FASTEST, SLOWEST, self.num_channels, device=self.log_decay.device)
        self.log_decay.copy_((-math.log(DECAY_TO) / (shares * self.filter_length)).log())
        self.D.normal_()

    def kernel(self) -> Tensor:
        """Return the filters (num_channels, filters, filter_length), without the skip, in at least float32."""
        exact = torch.promote_types(self.log_decay.dtype, torch.float32)
        t = torch.arange(self.filter_length, device=self.log_decay.device, dtype=exact)
        phase = 2 * math.pi / self.filter_length * t[:, None] * torch.arange(1, NUM_WAVES + 1, device=t.device)
        h = torch.cat([t[:, None] / self.filter_length, phase.cos(), phase.sin()], dim=-1)
        for i, layer in enumerate(self.mlp):
            assert isinstance(layer, nn.Linear)
            bias = None if layer.bias is None else layer.bias.to(exact)
            h = F.linear(h if i == 0 else h.sin(), layer.weight.to(exact), bias)
        h = h.view(self.filter_length, self.num_channels, -1).permute(1, 2, 0)
        return h * torch.exp(-self.log_decay.to(exact).exp()[:, None, None] * t)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Zeros (batch, filter_length - 1, num_channels): the last inputs."""
        return torch.zeros(batch_size, self.filter_length - 1, self.num_channels, device=device, dtype=dtype)

    def forward(
        self, u: Tensor, offset: Tensor, state: Tensor, boundaries: Boundaries | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over a chunk u (batch, length, num_channels), each position at `offset` (batch, length) in its document.

        The state (batch, filter_length - 1, num_channels) is the inputs before the chunk. Returns the outputs, as u or
        with an axis for the filters behind, and the new state.
        """
        if u.shape[1] == 1:
            return self.at_positions(u, offset.new_zeros(u.shape[0], 1), offset, state)
        with torch.autocast(u.device.type, enabled=False):
            kernel = self.kernel()
            exact, before = u.to(kernel.dtype), state.to(kernel.dtype)
            remembered = torch.arange(before.shape[1], 0, -1, device=u.device) <= offset[:, :1]  # of the same document
            before = before.masked_fill(~remembered.unsqueeze(-1), 0.0)
            y = convolve(before, cut_into_blocks(exact, boundaries), kernel)
            y = self._with_skip(y, exact).to(u.dtype)
        return y, self._remember(u, state)

    def at_positions(self, u: Tensor, positions: Tensor, offset: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """`forward` where only some outputs are needed, at `positions` (batch, count) of the chunk."""
        with torch.autocast(u.device.type, enabled=False):
            kernel = self.kernel()
            inputs = torch.cat([state.to(kernel.dtype), u.to(kernel.dtype)], dim=1)
            taps = torch.arange(self.filter_length, device=u.device)  # from the oldest input to the present one
            index = (positions.unsqueeze(-1) + taps).flatten(1)  # (batch, count * filter_length)
            windows = inputs.gather(1, index.unsqueeze(-1).expand(-1, -1, self.num_channels))
            windows = windows.unflatten(1, (-1, self.filter_length))
            known = self.filter_length - 1 - taps <= offset.gather(1, positions).unsqueeze(-1)
            windows = windows.masked_fill(~known.unsqueeze(-1), 0.0)
            y = torch.einsum("bktc,cft->bkcf", windows, kernel.flip(-1))
            y = self._with_skip(y, windows[:, :, -1]).to(u.dtype)
        return y, self._remember(u, state)

    def _with_skip(self, y: Tensor, u: Tensor) -> Tensor:
        """Return outputs (batch, length, num_channels, filters) with D u added, without the axis of a sole filter."""
        y = y + self.D.to(u.dtype) * u.unsqueeze(-1)
        return y.squeeze(-1) if self.num_filters is None else y

    def _remember(self, u: Tensor, state: Tensor) -> Tensor:
        inputs = torch.cat([state, u.to(state.dtype)], dim=1)
        return inputs[:, inputs.shape[1] - state.shape[1] :]


def convolve(before: Tensor, blocks: Blocks, kernel: Tensor) -> Tensor:
    """Convolution of a chunk within its documents, (batch, length, num_channels, filters).

    Inputs `before` the chunk (batch, filter_length - 1, num_channels) are 0 where they are of another document; the
    kernel is (num_channels, filters, filter_length).
    """
    batch_size, num_blocks, block_length, num_channels = blocks.inputs.shape
    filters, filter_length = kernel.shape[1:]
    num_before = math.ceil(before.shape[1] / block_length)
    before = F.pad(before, (0, 0, num_before * block_length - before.shape[1], 0)).unflatten(1, (-1, block_length))
    inputs = torch.cat([before, blocks.inputs], dim=1).permute(
        3, 0, 1, 2
    )  # (num_channels, batch, blocks, block_length)
    document = torch.zeros(batch_size, num_before + num_blocks, dtype=torch.int64, device=kernel.device)
    if blocks.begins is not None:
        document[:, num_before:] = blocks.begins.cumsum(dim=1)

    # A block of outputs gets from the block of inputs `distance` blocks before it a matrix of kernel[distance in time].
    furthest = min((filter_length + block_length - 2) // block_length, num_before + num_blocks - 1)
    padding = (block_length - 1, max((furthest + 1) * block_length - filter_length, 0))
    segments = F.pad(kernel, padding).unfold(-1, 2 * block_length - 1, block_length)
    y = inputs.new_zeros(num_channels, batch_size, num_blocks, filters * block_length)
    for distance in range(furthest + 1):
        matrix = segments[:, :, distance].unfold(-1, block_length, 1).flip(-1)  # (num_channels, filters, to, from)
        source = slice(max(num_before - distance, 0), num_before + num_blocks - distance)
        target = slice(source.start + distance, None)
        same = (document[:, source] == document[:, target]).unsqueeze(-1)
        given = inputs[:, :, source].masked_fill(~same, 0.0)  # (num_channels, batch, sources, block_length)
        part = torch.bmm(given.flatten(1, 2), matrix.flatten(1, 2).mT).unflatten(1, given.shape[1:3])
        y = y + F.pad(part, (0, 0, num_blocks - part.shape[2], 0))
    y = y.unflatten(-1, (filters, block_length)).permute(1, 2, 4, 0, 3).flatten(1, 2)
    return y.gather(1, blocks.place[..., None, None].expand(-1, -1, num_channels, filters))
