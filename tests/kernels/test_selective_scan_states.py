"""What reaches from one part of a scan into another, and what must not."""

import pytest
import torch
from scan_cases import MANY_PARTS, NAMES, assert_close, make_case, output_weights, results, to_dtype

from mambarium.kernels import selective_scan

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.parametrize("size", [1, 5, 32])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_one_pass_equals_chunks_and_single_steps(backend, size):
    case = to_dtype(make_case(2, 67, 9, 5, reset=True))
    whole = results(case, backend, with_grads=False)
    state, outputs = case["initial_state"], []
    for start in range(0, 67, size):
        part = {k: case[k][..., start : start + size] for k in ("u", "delta", "B", "C", "z", "reset")}
        out, state = selective_scan(**{**case, **part, "initial_state": state}, return_last_state=True, backend=backend)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, -1), whole["out"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, whole["last_state"], rtol=1e-5, atol=1e-5)


def test_gradient_flows_from_chunk_to_chunk():
    case = to_dtype(make_case(2, 40, 5, 4))
    whole = results(case)
    leaves = {name: case[name].clone().requires_grad_() for name in NAMES}
    state, total = leaves["initial_state"], 0
    weight = output_weights(torch.empty(2, 5, 40))
    for part in (slice(0, 33), slice(33, 40)):
        cut = {k: leaves[k][..., part] for k in ("u", "delta", "B", "C", "z")}
        out, state = selective_scan(
            **{**case, **leaves, **cut, "reset": case["reset"][:, part], "initial_state": state},
            return_last_state=True,
        )
        total = total + (out.double() * weight[..., part]).sum()
    total = total + (state.double() * output_weights(state)).sum()
    grads = torch.autograd.grad(total, list(leaves.values()))
    found = {f"grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    assert_close(found, {k: v for k, v in whole.items() if k.startswith("grad")}, 1e-5, 1e-5)


def test_reset_separates_documents():
    case = to_dtype(make_case(1, 50, 20, 4, optional=("D", "z"), reset=False))
    boundary = 33
    case["reset"] = torch.arange(50)[None] == boundary
    packed = selective_scan(**case)
    alone = {k: case[k][..., boundary:] for k in ("u", "delta", "B", "C", "z")}
    expected = selective_scan(**{**case, **alone, "reset": None})
    torch.testing.assert_close(packed[..., boundary:], expected)
    case["u"][..., : boundary - 1] = torch.nan
    assert selective_scan(**case)[..., boundary:].isfinite().all()


def test_bit_identical_for_any_number_of_threads():
    case = to_dtype(make_case(**MANY_PARTS))
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            runs.append(results(case))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        for name, value in run.items():
            assert torch.equal(value, runs[0][name]), name


@pytest.mark.parametrize("reverse", [False, True])
def test_no_uninitialised_memory_is_used(monkeypatch, reverse):
    case = to_dtype(make_case(**MANY_PARTS, reverse=reverse))
    expected = results(case)
    real = {name: getattr(torch, name) for name in ("empty", "empty_like")}

    def filled(name):
        def function(*args, **kwargs):
            tensor = real[name](*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(255)

        return function

    for name in real:
        monkeypatch.setattr(torch, name, filled(name))
    found = results(case)
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("backend", [None, "reference"])
def test_nan_stays_in_its_channel_and_batch_element(backend):
    case = to_dtype(make_case(2, 40, 20, 4))
    clean = selective_scan(**case, backend=backend)
    for name in ("u", "delta", "z"):
        poisoned = case[name].clone()
        poisoned[1, 3, 7] = torch.nan
        out = selective_scan(**{**case, name: poisoned}, backend=backend)
        assert out[1, 3, 7].isnan()
        out[1, 3], clean_rest = clean[1, 3], clean
        assert torch.equal(out, clean_rest)
