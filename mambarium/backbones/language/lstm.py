"""A residual stack of LSTMs: the recurrent network that came before attention and state spaces, as their rival.

"Long Short-Term Memory" (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000): torch's own `nn.LSTM`,
in the pre-norm residual blocks that the other families have, so that they differ in the mixer alone.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mambarium.backbones.contract import State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.initialization import draw_output_projection
from mambarium.backbones.layers.residual_stack import Block, BlockOutput, ResidualStack, StackState
from mambarium.backbones.layers.sequences import Boundaries
from mambarium.backbones.published.family import Family


class LSTM(ResidualStack):
    """Residual LSTMs, from vectors to features, with a final norm.

    Args:
        width: Size of the vectors.
        depth: Number of blocks.
        hidden_size: Size of an LSTM's hidden and cell vectors; the width if None.
        dropout: Share of a block's outputs set to zero in training.
    """

    def __init__(self, width: int = 128, depth: int = 3, hidden_size: int | None = None, dropout: float = 0.0) -> None:
        hidden_size = width if hidden_size is None else hidden_size
        for name, value in {"width": width, "depth": depth, "hidden_size": hidden_size}.items():
            check_at_least(name, value, 1)
        check_rate("dropout", dropout)
        super().__init__(width, (LSTMBlock(width, depth, hidden_size, dropout) for _ in range(depth)))

    def describe(self, x: Tensor, state: StackState | None, boundaries: Boundaries | None) -> DocumentPacking | None:
        """Return the documents, packed once for all blocks; None if there are none to keep apart."""
        return None if boundaries is None else document_packing(boundaries)


class LSTMBlock(Block):
    """Pre-norm residual block: residual + out_proj(lstm(norm(residual))).

    Its state is hidden and cell (batch, hidden_size).
    """

    def __init__(self, width: int, num_layers: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.lstm = nn.LSTM(width, hidden_size, batch_first=True)
        self.out_proj = nn.Linear(hidden_size, width, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Open forget gates (Jozefowicz et al. 2015), and outputs whose sum over all layers keeps its size."""
        forget = slice(self.lstm.hidden_size, 2 * self.lstm.hidden_size)
        self.lstm.get_parameter("bias_ih_l0")[forget] = 1.0
        self.lstm.get_parameter("bias_hh_l0")[forget] = 0.0
        draw_output_projection(self.out_proj, self.num_layers)

    def initial_state(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> State:
        """Zeros."""
        size = (batch_size, self.lstm.hidden_size)
        return {name: torch.zeros(size, device=device, dtype=dtype) for name in ("hidden", "cell")}

    def forward(self, residual: Tensor, state: dict[str, Tensor] | None, chunk: DocumentPacking | None) -> BlockOutput:
        dtype = self.lstm.get_parameter("weight_hh_l0").dtype
        x = self.norm(residual.to(self.norm.weight.dtype)).to(dtype)
        memory = None
        if state is not None:
            memory = (state["hidden"].to(dtype), state["cell"].to(dtype))
        # oneDNN refuses LSTMs of many sizes under the CPU's autocast; on a GPU autocast serves them.
        with torch.autocast("cpu", enabled=False):
            if chunk is None:
                y, (hidden, cell) = self.lstm(x, None if memory is None else (memory[0][None], memory[1][None]))
                hidden, cell = hidden[0], cell[0]
            else:
                y, hidden, cell = self._documents_apart(x, memory, chunk)
        mixed = self.dropout(self.out_proj(y))
        after: State | None = None
        if state is not None:
            after = {"hidden": hidden.to(state["hidden"].dtype), "cell": cell.to(state["cell"].dtype)}
        return BlockOutput(residual + mixed, after, {})

    def _documents_apart(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, packing: DocumentPacking
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (batch, length, hidden_size), and hidden and cell after each sequence's last document."""
        if memory is None:
            zeros = x.new_zeros(x.shape[0], self.lstm.hidden_size)
            memory = (zeros, zeros)
        begins = packing.begins.unsqueeze(1)
        starts = tuple(
            value.new_zeros(packing.num_documents, value.shape[1]).index_copy(
                0, packing.first_document, value.masked_fill(begins, 0.0)
            )[None]
            for value in memory
        )
        packed = PackedSequence(x.flatten(0, 1)[packing.order], packing.batch_sizes)
        y, (hidden, cell) = self.lstm(packed, starts)
        y = y.data[packing.order.argsort()].view(*x.shape[:2], -1)
        return y, hidden[0, packing.last_document], cell[0, packing.last_document]


class DocumentPacking(NamedTuple):
    """The documents of a chunk as one `PackedSequence`: all first positions, then all second ones, and so on.

    Documents are counted from the longest to the shortest.

    Attributes:
        order: (batch * length,) positions of the flattened chunk in packed order.
        batch_sizes: (longest,) int64 on the CPU, how many documents have a first position, a second one, ...
        num_documents: How many documents the chunk has, each sequence's own.
        first_document: (batch,) the document of each sequence's first position.
        last_document: (batch,) the document of each sequence's last position.
        begins: (batch,) bool, whether the first position begins its document.
    """

    order: Tensor
    batch_sizes: Tensor
    num_documents: int
    first_document: Tensor
    last_document: Tensor
    begins: Tensor


def document_packing(boundaries: Boundaries) -> DocumentPacking:
    """Sort a chunk's positions by their place in their documents."""
    segment = boundaries.segment.long()  # (batch, length)
    documents_before = (segment[:, -1] + 1).cumsum(dim=0) - (segment[:, -1] + 1)
    document = segment + documents_before[:, None]  # (batch, length), counted through the batch
    lengths = document.flatten().bincount()  # (documents,)
    by_length = lengths.argsort(descending=True, stable=True)
    document = by_length.argsort()[document]  # counted from the longest
    starts = lengths.cumsum(dim=0) - lengths
    place = torch.arange(document.numel(), device=document.device) - starts[by_length][document.flatten()]
    return DocumentPacking(
        order=(place * lengths.numel() + document.flatten()).argsort(),
        batch_sizes=place.bincount().cpu(),
        num_documents=lengths.numel(),
        first_document=document[:, 0],
        last_document=document[:, -1],
        begins=boundaries.reset[:, 0],
    )


FAMILY = Family(LSTM)
