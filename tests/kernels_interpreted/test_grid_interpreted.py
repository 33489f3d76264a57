import pytest
import torch

from mambarium.kernels import CROSS, Route, grid_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


@pytest.mark.parametrize(("routes", "shared"), [(CROSS, True), ((Route(2), Route(0, True, True)), False)])
def test_triton_agrees_with_float64_reference(routes, shared):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    count = len(routes)
    u = normal(2, 5, 3, 4) if shared else normal(2, count, 5, 3, 4)
    inputs = [u, normal(2, count, 5, 3, 4), -normal(count, 5, 2).abs()]
    inputs += [normal(2, count, 2, 3, 4) for _ in range(2)] + [normal(count, 5) for _ in range(2)]

    def results(inputs, backend):
        inputs = [x.clone().requires_grad_() for x in inputs]
        out = grid_scan(*inputs, True, routes=routes, backend=backend)
        return (out, *torch.autograd.grad((out * torch.arange(12.0).view(3, 4)).sum(), inputs))

    expected = results([x.double() for x in inputs], "reference")
    for name, found, value in zip(("out", *NAMES), results(inputs, "triton"), expected, strict=True):
        assert (found.double() - value).norm() <= 5e-6 * value.norm(), name
