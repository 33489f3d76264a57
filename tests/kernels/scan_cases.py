"""Inputs, results and distances for the tests of the selective scan."""

import torch

from mambarium.kernels import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
# Cut into parts of the batch of several elements and into spans of blocks that are added up.
MANY_PARTS = {"batch": 45, "length": 35, "dim": 150, "d_state": 3}


def make_case(
    batch, length, dim, d_state, *, groups=1, optional=NAMES[5:], reset=True, softplus=True, reverse=False, seed=0
):
    """Keyword arguments of selective_scan in float64: channel-last memory, decaying states."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    case = {
        "u": normal(batch, length, dim).transpose(1, 2),
        "delta": normal(batch, length, dim).transpose(1, 2),
        "A": -4 * torch.rand(dim, d_state, generator=generator, dtype=torch.float64),
        "B": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "C": normal(batch, length, groups, d_state).permute(0, 2, 3, 1),
        "D": normal(dim),
        "z": normal(batch, length, dim).transpose(1, 2),
        "delta_bias": normal(dim),
        "initial_state": normal(batch, dim, d_state),
    }
    for name in NAMES[5:]:
        if name not in optional:
            case[name] = None
    if groups == 1:
        case["B"], case["C"] = case["B"][:, 0], case["C"][:, 0]
    if not softplus:
        case["delta"] = case["delta"].abs()
        case["delta_bias"] = None if case["delta_bias"] is None else case["delta_bias"].abs()
    if reset:
        case["reset"] = torch.rand(batch, length, generator=generator) < 0.1
    return {**case, "delta_softplus": softplus, "reverse": reverse}


def to_dtype(case, half=torch.float32):
    """The case with float32 parameters and states, and the other inputs in a dtype."""
    kinds = {name: half if name in ("u", "delta", "B", "C", "z") else torch.float32 for name in NAMES}
    converted = {name: case[name].to(kind) for name, kind in kinds.items() if case[name] is not None}
    return {**case, **converted}


def to_double(case):
    return {k: v.double() if k in NAMES and v is not None else v for k, v in case.items()}


def output_weights(x):
    """Numbers that half precision holds exactly, so that it gets the same incoming gradients."""
    return (torch.linspace(0, 9, x.numel(), dtype=torch.float64).sin().view(x.shape) * 16).round() / 16


def results(case, backend=None, with_grads=True, outputs=("out", "last_state")):
    """Outputs, last state and gradients of all inputs, by name; the loss is taken of `outputs`."""
    case = {k: v.detach().clone() if isinstance(v, torch.Tensor) else v for k, v in case.items()}
    leaves = {k: case[k].requires_grad_(with_grads) for k in NAMES if case[k] is not None}
    out, last_state = selective_scan(**case, return_last_state=True, backend=backend)
    found = {"out": out, "last_state": last_state}
    if with_grads:
        loss = sum((found[name].double() * output_weights(found[name])).sum() for name in outputs)
        grads = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        found.update({f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)})
    return found


def assert_close(found, expected, outputs, gradients, parameters=None):
    """`parameters`: tolerance of what is float32 beside inputs of half precision."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        size = value.double().norm()
        if name == "grad delta_bias":  # a sum that may cancel: over batch and length of the gradient of delta
            size = max(size, expected["grad delta"].double().norm())
        error = (found[name].double() - value.double()).norm() / (size + 1e-12)
        tolerance = gradients if name.startswith("grad") else outputs
        if parameters is not None and found[name].dtype == torch.float32:
            tolerance = parameters
        assert error <= tolerance, f"{name}: relative error {error:.1e}"
