"""How much computing a model takes: multiply-accumulates, counted operation by operation."""

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def multiply_accumulates(model: nn.Module, example: Tensor) -> dict[str, int]:
    """Multiply-accumulates of one forward pass, by operation.

    Counted are matrix products, convolutions, attention and this package's scans (half the floating-point operations
    of torch's counter), not norms, activations and sums. The model runs in the mode it is in: a mixture of experts is
    counted in training mode, in which shapes don't depend on the tokens' choices.

    Args:
        model: A task or backbone; on the meta device nothing is computed and no memory taken.
        example: Its input, on the same device.

    Returns:
        Counts by operation, such as "aten.mm" and "mambarium.selective_scan_forward".
    """
    with FlopCounterMode(display=False) as counter:
        model(example)
    return {str(operation): count // 2 for operation, count in counter.get_flop_counts()["Global"].items()}
