"""The CPU kernels read and write any strides in place: every layout gets the same bits, and no memory but results."""

import pytest
import torch

from mambarium.kernels import Route, causal_conv1d, grid_scan, selective_scan

pytestmark = pytest.mark.cpu_only
LAYOUTS = ("channel_last", "length_last", "apart", "channels_of_wider", "positions_of_wider")


def allocated(call):
    """What a call returns, and the bytes of tensors' memory that it allocates on the way."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    return result, sum(max(0, event.self_cpu_memory_usage) for event in profiler.events())


def laid_out(x, layout, positions):
    """Return x, whose last axes are its channels and then so many of positions, in another layout."""
    channels, *places = range(x.dim() - 1 - positions, x.dim())
    batch, *others = range(channels)
    order = {
        "channel_last": [batch, *places, *others, channels],
        "length_last": [batch, *others, channels, *places],
        "apart": [channels, *places, batch, *others],
        "channels_of_wider": [batch, *places, *others, channels],
        "positions_of_wider": [batch, *others, channels, *places],
    }[layout]
    shape = [x.shape[axis] for axis in order]
    memory = torch.empty(shape)
    if layout.endswith("wider"):
        memory = torch.full([*shape[:-1], 2 * shape[-1] + 3], torch.nan)[..., 1 : 1 + shape[-1]]
    return memory.permute([order.index(axis) for axis in range(x.dim())]).copy_(x)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(function, inputs, incoming):
    """Output and gradients, and the bytes that each direction allocates, without those of the gradients."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items()}
    out, forward_bytes = allocated(lambda: function(**leaves))
    grads, backward_bytes = allocated(lambda: torch.autograd.grad(out, list(leaves.values()), incoming))
    return (out, *grads), forward_bytes, backward_bytes - sum(4 * x.numel() for x in grads)


def check(function, parameters, sequences, positions, layouts, saved_bytes):
    """Compare the first layout, and mixtures that begin with it, with the channel-last one, bit for bit.

    Beside the output the forward allocates what is saved, the backward only the gradients.
    """

    def computed(names):
        laid = {
            name: laid_out(x, layout, positions) for layout, (name, x) in zip(names, sequences.items(), strict=False)
        }
        shape = function(**parameters, **laid).shape
        weights = torch.linspace(0, 9, shape.numel()).sin().view(shape)
        return run(function, parameters | laid, laid_out(weights, names[-1], positions))

    expected, *_ = computed(["channel_last"] * 6)
    for names in ([layouts[0]] * 6, 2 * layouts):
        found, forward_bytes, backward_bytes = computed(names)
        for x, y in zip(found, expected, strict=True):
            assert torch.equal(x, y)
        assert forward_bytes == saved_bytes + 4 * expected[0].numel()
        assert backward_bytes == 0


def rotations(layouts):
    return [[*layouts[first:], *layouts[:first]] for first in range(len(layouts))]


@pytest.mark.parametrize("layouts", rotations(LAYOUTS), ids=lambda x: x[0])
@pytest.mark.parametrize(
    ("batch", "length", "dim", "d_state", "groups"),
    [(2, 70, 37, 5, 1), (1, 1, 1, 1, 1), (2, 16, 16, 16, 1), (1, 33, 40, 18, 2), (3, 2, 17, 1, 1)],
)
@pytest.mark.parametrize("reverse", [False, True])
def test_selective_scan(layouts, batch, length, dim, d_state, groups, reverse):
    sequences = {name: normal(seed, batch, dim, length) for seed, name in enumerate(("u", "delta", "z"))}
    sequences |= {name: normal(seed, batch, groups, d_state, length) for seed, name in ((3, "B"), (4, "C"))}
    parameters = {
        "A": -normal(5, d_state, dim).abs().t(),
        "D": normal(6, dim, 2)[:, 0],
        "delta_bias": normal(7, dim),
        "initial_state": normal(8, d_state, batch, dim).permute(1, 2, 0),
    }
    checkpoints = 4 * batch * -(-length // 32) * groups * -(-dim // groups // 16) * d_state * 16

    def scan(**arguments):
        return selective_scan(**arguments, delta_softplus=True, reverse=reverse)

    check(scan, parameters, sequences, 1, layouts, checkpoints + 4 * batch * dim * d_state)


@pytest.mark.parametrize("layouts", rotations(LAYOUTS), ids=lambda x: x[0])
@pytest.mark.parametrize(
    ("batch", "length", "dim", "width"), [(2, 70, 37, 4), (1, 1, 1, 2), (2, 16, 16, 3), (3, 2, 17, 4)]
)
@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv1d(layouts, batch, length, dim, width, reverse):
    sequences = {"x": normal(0, batch, dim, length), "initial_states": normal(1, batch, dim, width - 1)}
    parameters = {"weight": normal(2, width, dim).t(), "bias": normal(3, dim, 2)[:, 0]}

    def conv(**arguments):
        return causal_conv1d(**arguments, activation="silu", reverse=reverse)

    check(conv, parameters, sequences, 1, layouts, 0)


@pytest.mark.parametrize("layouts", rotations(LAYOUTS[:-1]), ids=lambda x: x[0])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (16, 17), (1, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_grid_scan(layouts, height, width, shared):
    """Parts of wider rows of positions aren't among the layouts: their two axes can't be one."""
    routes = [Route(*numbers) for numbers in ((0, False, False), (0, True, True), (3, False, True))]
    batch, dim, d_state, count = 2, 19, 5, 3
    u = (batch, dim, height, width) if shared else (batch, count, dim, height, width)
    sequences = {"u": normal(0, *u), "delta": normal(1, batch, count, dim, height, width)}
    sequences |= {name: normal(seed, batch, count, d_state, height, width) for seed, name in ((3, "B"), (4, "C"))}
    parameters = {
        "A": -normal(5, count, dim, d_state).abs(),
        "D": normal(6, count, dim),
        "delta_bias": normal(7, count, dim),
    }
    checkpoints = 4 * batch * -(-height * width // 32) * count * -(-dim // 16) * d_state * 16

    def scan(**arguments):
        return grid_scan(**arguments, delta_softplus=True, routes=routes)

    check(scan, parameters, sequences, 2, layouts, checkpoints + 4 * batch * count * dim * d_state)
