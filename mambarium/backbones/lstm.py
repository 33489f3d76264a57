"""A residual stack of LSTMs: the recurrent network that came before attention and state spaces, as their rival.

"Long Short-Term Memory" (Hochreiter and Schmidhuber 1997) with forget gates (Gers et al. 2000): torch's own `nn.LSTM`,
in the pre-norm residual blocks that the other families have, so that they differ in the mixer alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypedDict, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from mambarium.backbones.contract import SequenceBackbone, SequenceOutput, State
from mambarium.backbones.layers.arguments import check_at_least, check_rate
from mambarium.backbones.layers.documents import NO_DOCUMENT, Boundaries, document_boundaries
from mambarium.backbones.layers.sequences import check_sequences, check_state


class LSTMState(TypedDict):
    """What a stack of LSTMs remembers.

    Attributes:
        layers: For each layer, hidden and cell (batch, hidden_size).
        document_id: (batch,) int64, the last document seen, or `NO_DOCUMENT`.
    """

    layers: list[dict[str, Tensor]]
    document_id: Tensor


class LSTM(SequenceBackbone):
    """Residual LSTMs, from vectors to features, with a final norm.

    Args:
        width: Size of the vectors.
        depth: Number of blocks.
        hidden_size: Size of an LSTM's hidden and cell vectors; the width if None.
        dropout: Share of a block's outputs set to zero in training.
    """

    constant_state = True

    def __init__(self, width: int = 128, depth: int = 3, hidden_size: int | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        hidden_size = width if hidden_size is None else hidden_size
        for name, value in {"width": width, "depth": depth, "hidden_size": hidden_size}.items():
            check_at_least(name, value, 1)
        check_rate("dropout", dropout)
        self.width = width
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(LSTMBlock(width, depth, hidden_size, dropout) for _ in range(depth))
        self.norm_f = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, state: State | None = None, *, document_ids: Tensor | None = None) -> SequenceOutput:
        """Features of every position; see `SequenceBackbone.forward`.

        Raises:
            InputError: If the input is not (batch, length, width), or state or document ids do not fit it.
        """
        check_sequences(self, x, document_ids)
        if state is not None:
            check_state(self, len(self.layers), state, x.shape[0])
        old = cast(LSTMState | None, state)
        last_document, packing = None, None
        if document_ids is not None:
            boundaries = document_boundaries(document_ids, None if old is None else old["document_id"])
            last_document, packing = boundaries.last_document, document_packing(boundaries)

        residual = x.to(torch.promote_types(x.dtype, torch.float32))
        new_layers: list[dict[str, Tensor]] = []
        for i, layer in enumerate(self.layers):
            residual, new_layer = layer(residual, None if old is None else old["layers"][i], packing)
            new_layers.append(new_layer)
        features = self.norm_f(residual.to(self.norm_f.weight.dtype))
        if old is None:
            return SequenceOutput(features, None, {})
        document_id = old["document_id"] if last_document is None else last_document
        return SequenceOutput(features, cast(State, LSTMState(layers=new_layers, document_id=document_id)), {})

    def initial_state(
        self,
        batch_size: int,
        *,
        max_length: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Zeros, and no document; the size does not depend on `max_length`."""
        device = self.norm_f.weight.device if device is None else torch.device(device)
        dtype = self.norm_f.weight.dtype if dtype is None else dtype
        state = LSTMState(
            layers=[
                {
                    name: torch.zeros(batch_size, self.hidden_size, device=device, dtype=dtype)
                    for name in ("hidden", "cell")
                }
                for _ in self.layers
            ],
            document_id=torch.full((batch_size,), NO_DOCUMENT, device=device, dtype=torch.int64),
        )
        return cast(State, state)

    def depth_of(self, parameter_name: str) -> int:
        """1 for the first block (0 is the task's embedding), `depth` for the last and the final norm."""
        parts = parameter_name.split(".")
        return int(parts[1]) + 1 if parts[0] == "layers" else len(self.layers)


class LSTMBlock(nn.Module):
    """Pre-norm residual block: residual + out_proj(lstm(norm(residual))).

    Args:
        width: Size of the vectors.
        num_layers: Depth of the whole network, by whose root the output projection is scaled at the start.
        hidden_size: Size of the LSTM's hidden and cell vectors.
        dropout: Share of outputs set to zero in training.
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
        nn.init.kaiming_uniform_(self.out_proj.weight, a=math.sqrt(5))
        self.out_proj.weight.div_(math.sqrt(self.num_layers))

    def forward(
        self, residual: Tensor, state: dict[str, Tensor] | None, packing: DocumentPacking | None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """(batch, length, width) to the same, and the layer's new state."""
        dtype = self.lstm.get_parameter("weight_hh_l0").dtype
        x = self.norm(residual.to(self.norm.weight.dtype)).to(dtype)
        memory = None
        if state is not None:
            memory = (state["hidden"].to(dtype), state["cell"].to(dtype))
        # oneDNN refuses LSTMs of many sizes under the CPU's autocast; on a GPU autocast serves them.
        with torch.autocast("cpu", enabled=False):
            if packing is None:
                y, (hidden, cell) = self.lstm(x, None if memory is None else (memory[0][None], memory[1][None]))
                hidden, cell = hidden[0], cell[0]
            else:
                y, hidden, cell = self._documents_apart(x, memory, packing)
        mixed = self.dropout(self.out_proj(y))
        if state is None:
            return residual + mixed, None
        return residual + mixed, {"hidden": hidden.to(state["hidden"].dtype), "cell": cell.to(state["cell"].dtype)}

    def _documents_apart(
        self, x: Tensor, memory: tuple[Tensor, Tensor] | None, packing: DocumentPacking
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs (batch, length, hidden_size), and hidden and cell after each sequence's last document."""
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
