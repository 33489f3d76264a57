"""How the Triton kernels are laid out on a GPU: static tables, the same for the same shapes on the same GPU.

Nothing is measured at import or at a call. Who wants measured choices calls `scan.triton_tuning.tune_selective_scan`,
which puts them into `TUNED` for the rest of the process.

The dtype is in no table, since registers hold float32 whatever the memory does. The architecture counts by its
number of processors alone: a GPU is full with WARPS_PER_PROCESSOR warps on each.

When the scan's time is cut into segments that are scanned side by side, with p processors and
w = batch * groups * ceil(dim / groups / 32) warps otherwise:

| shapes                                                         | segments                                   |
|----------------------------------------------------------------|--------------------------------------------|
| 3 w > 8 p: channels and batch elements fill a third of the GPU | 1                                          |
| length < 768: too short                                        | 1                                          |
| others                                                         | floor(8 p / w), at most floor(length / 256) |

Finding what enters the segments costs more than half a scan, so that two segments would gain next to nothing, and a
segment of less than 256 positions is over before it pays for the launches.
"""

from typing import NamedTuple

import torch
import triton

INTERPRETED = bool(triton.knobs.runtime.interpret)

LANES = 32  # of a warp; the scan's programs are single warps, whose sums over lanes need no shared memory
# The kernels' registers leave room for about so many warps on a processor of the GPU.
WARPS_PER_PROCESSOR = 8
SEGMENT_MIN_POSITIONS = 256
SEGMENT_MIN_NUMBER = 3
# States of the forward that a launch keeps in registers.
MAX_STATES = 32
# Positions per tile of the backward, which is also the distance of the checkpoints: what fits into registers.
# The interpreter takes milliseconds per position, those past the end included.
BACKWARD_TILE = 4 if INTERPRETED else 8

CONV_BLOCK_TIME = 32
CONV_BLOCK_DIM = 64
CONV_WARPS = 4
# States that a program of a single step updates: few, since a step has little work to fill the machine with.
STEP_BLOCK = 512
STEP_WARPS = 4


class ScanConfiguration(NamedTuple):
    """How a scan is laid out in registers.

    Attributes:
        forward_tile: positions per tile of the forward, a divisor of BACKWARD_TILE: more hide more of the memory's
            latency and take more registers.
        forward_channels: channels of a lane; two share the loads of B and C.
        backward_channels: two share the sums over lanes as well.
    """

    forward_tile: int
    forward_channels: int
    backward_channels: int


# Up to so many states: the configuration of a GPU that is full. A lane's states and coefficients of A take
# 2 * channels * d_state registers of the forward's 255; the backward holds one state at a time.
SCAN_TABLE = (
    (16, ScanConfiguration(forward_tile=BACKWARD_TILE // 2, forward_channels=2, backward_channels=2)),
    (MAX_STATES, ScanConfiguration(forward_tile=BACKWARD_TILE // 2, forward_channels=1, backward_channels=2)),
)

# (batch, length, dim, groups, d_state, processors): what a tuner found.
TUNED: dict[tuple[int, ...], ScanConfiguration] = {}


class Segments(NamedTuple):
    """How time is divided.

    Attributes:
        number: of segments.
        positions: of each segment but the last, which may be shorter; a multiple of the backward's tile.
    """

    number: int
    positions: int


def count_processors(device: torch.device) -> int:
    """Return the GPU's streaming multiprocessors; one for the interpreter, whose tensors are on a CPU."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def plan_segments(batch: int, length: int, dim: int, groups: int, processors: int) -> Segments:
    """Return the segments that the table above gives."""
    warps = batch * groups * -(-(dim // groups) // LANES)
    number = min(processors * WARPS_PER_PROCESSOR // warps, length // SEGMENT_MIN_POSITIONS)
    if number < SEGMENT_MIN_NUMBER:
        number = 1
    positions = -(-length // (number * BACKWARD_TILE)) * BACKWARD_TILE
    return Segments(-(-length // positions), positions)


def scan_configuration(
    batch: int, length: int, dim: int, groups: int, d_state: int, processors: int
) -> ScanConfiguration:
    """Return the row of SCAN_TABLE, with one channel per lane where two would leave processors idle."""
    tuned = TUNED.get((batch, length, dim, groups, d_state, processors))
    if tuned is not None:
        return tuned
    row = next((row for most, row in SCAN_TABLE if d_state <= most), SCAN_TABLE[-1][1])
    warps_of_two = batch * groups * -(-(dim // groups) // (2 * LANES))
    if dim // groups > LANES and warps_of_two >= WARPS_PER_PROCESSOR * processors:
        return row
    return row._replace(forward_channels=1, backward_channels=1)
