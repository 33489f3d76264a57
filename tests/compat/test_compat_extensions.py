"""The compiled extensions' functions and Mamba's block, against references in plain PyTorch."""

import itertools
import types

import pytest
import torch
import torch.nn.functional as F

from mambarium.compat import causal_conv_extension as conv
from mambarium.compat import scan_extension, vmamba_core, vmamba_oflex
from mambarium.compat.causal_conv import causal_conv1d_fn, causal_conv1d_ref
from mambarium.compat.causal_conv_varlen import causal_conv1d_varlen_states
from mambarium.compat.mamba_simple import Mamba
from mambarium.compat.selective_scan_interface import selective_scan_ref

BATCH, DIM, LENGTH, D_STATE = 2, 6, 19, 5


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def close(found, expected):
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=2e-4, atol=2e-5)


def scan_inputs():
    return {
        "u": torch.randn(BATCH, DIM, LENGTH),
        "delta": torch.randn(BATCH, DIM, LENGTH),
        "A": -torch.rand(DIM, D_STATE) - 0.1,
        "B": torch.randn(BATCH, 1, D_STATE, LENGTH),
        "C": torch.randn(BATCH, 1, D_STATE, LENGTH),
        "D": torch.randn(DIM),
        "z": torch.randn(BATCH, DIM, LENGTH),
        "delta_bias": torch.randn(DIM),
    }


@pytest.mark.parametrize("gated", [False, True])
def test_selective_scan_cuda(gated):
    inputs = scan_inputs() | ({} if gated else {"z": None})
    leaves = {name: None if x is None else x.double().requires_grad_() for name, x in inputs.items()}
    expected, last_state = selective_scan_ref(**leaves, delta_softplus=True, return_last_state=True)
    found = scan_extension.fwd(*inputs.values(), True)
    close(found[-1] if gated else found[0], expected)
    close(found[1][:, :, -1, 1::2], last_state)
    dout = torch.randn(BATCH, DIM, LENGTH)
    expected.backward(dout)
    given = (None, None, None)  # x, out and memory for the gradient of z
    grads = scan_extension.bwd(*inputs.values(), dout, *given, True, gated)
    names = ["u", "delta", "A", "B", "C", "D", "delta_bias", *(["z"] if gated else [])]
    for name, grad in zip(names, grads, strict=False):
        close(grad, leaves[name].grad)
    assert len(grads) == len(names) + gated
    if gated:
        close(grads[-1], expected.detach())


def test_selective_scan_cuda_core_is_oflex_with_an_output_of_the_input_s_dtype():
    inputs = {name: x for name, x in scan_inputs().items() if name != "z"}
    inputs["u"], inputs["delta"] = inputs["u"].bfloat16(), inputs["delta"].bfloat16()
    out, _ = vmamba_core.fwd(*inputs.values(), True, 1)
    wide, _ = vmamba_oflex.fwd(*inputs.values(), True, 1, True)
    assert out.dtype == torch.bfloat16 and torch.equal(out, wide.bfloat16())


def conv_inputs():
    return torch.randn(BATCH, DIM, LENGTH), torch.randn(DIM, 4), torch.randn(DIM), torch.randn(BATCH, DIM, 3)


@pytest.mark.parametrize("fills", [False, True], ids=["returns", "fills"])
def test_causal_conv1d_cuda(fills):
    x, weight, bias, initial = conv_inputs()
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias, initial)]
    expected, final = causal_conv1d_ref(
        *leaves[:3], initial_states=leaves[3], return_final_states=True, activation="silu"
    )
    states = torch.empty(BATCH, DIM, 3)
    out = torch.empty_like(x)
    returned = conv.causal_conv1d_fwd(x, weight, bias, None, initial, *([out] if fills else []), states, True)
    assert (returned is None) == fills
    close(out if fills else returned, expected)
    close(states, final)
    dout, dfinal = torch.randn_like(x), torch.randn(BATCH, DIM, 3)
    torch.autograd.backward([expected, final], [dout.double(), dfinal.double()])
    given = (x, weight, bias, dout, None, initial, dfinal)
    if fills:
        grads = [torch.empty_like(tensor) for tensor in (x, weight, bias, initial)]
        assert conv.causal_conv1d_bwd(*given, *grads, True) is None
    else:
        grads = conv.causal_conv1d_bwd(*given, None, True, True)
    for grad, leaf in zip(grads, leaves, strict=True):
        close(grad, leaf.grad)
    with pytest.raises(TypeError, match=r"causal_conv1d_fwd: expected 7 or 8 arguments, .*; found 6"):
        conv.causal_conv1d_fwd(x, weight, bias, None, initial, True)


def test_steps_of_causal_conv1d_cuda_go_on_like_the_whole():
    x, weight, bias, _ = conv_inputs()
    whole = causal_conv1d_ref(x.double(), weight.double(), bias.double(), activation="silu")
    state, out = torch.zeros(BATCH, DIM, 4), torch.empty(BATCH, DIM, 1)
    for place in range(LENGTH):
        conv.causal_conv1d_update(x[..., place : place + 1], state, weight, bias, out, True, None, None)
        close(out, whole[..., place : place + 1])


def test_outputs_of_channels_last_inputs_can_be_changed_in_place():
    x, weight, bias, _ = conv_inputs()
    channels_last = x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    out = causal_conv1d_fn(channels_last, weight, bias, activation="silu")
    out *= 2
    out.sum().backward()
    leaf = x.double().requires_grad_()
    (2 * causal_conv1d_ref(leaf, weight.double(), bias.double(), activation="silu")).sum().backward()
    close(channels_last.grad, leaf.grad)


def test_last_inputs_of_sequences_of_unequal_length():
    x, bounds = torch.randn(9, DIM), [0, 1, 1, 6, 9]
    found = causal_conv1d_varlen_states(x, torch.tensor(bounds), 3)
    for row, (start, end) in enumerate(itertools.pairwise(bounds)):
        sequence = x[start:end].T
        assert torch.equal(found[row], F.pad(sequence, (3, 0))[:, -3:])


def block_by_hand(block, hidden):
    """Mamba's block (Gu and Dao 2023, section 3.4) in float64."""
    weights = {name: value.double() for name, value in block.state_dict().items()}
    x, z = (hidden.double() @ weights["in_proj.weight"].T).transpose(1, 2).chunk(2, dim=1)
    x = causal_conv1d_ref(x, weights["conv1d.weight"][:, 0], weights["conv1d.bias"], activation="silu")
    dt, B, C = (x.transpose(1, 2) @ weights["x_proj.weight"].T).split([block.dt_rank, block.d_state, block.d_state], -1)
    scanned = selective_scan_ref(
        x,
        (dt @ weights["dt_proj.weight"].T).transpose(1, 2),
        -weights["A_log"].exp(),
        B.transpose(1, 2),
        C.transpose(1, 2),
        weights["D"],
        z,
        weights["dt_proj.bias"],
        True,
    )
    return scanned.transpose(1, 2) @ weights["out_proj.weight"].T


@torch.no_grad()
def test_mamba_s_block_whole_and_continued():
    block, hidden = Mamba(16, d_state=4, layer_idx=0), torch.randn(BATCH, LENGTH, 16)
    names = ["A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight"]
    assert list(block.state_dict()) == [*names, "dt_proj.bias", "out_proj.weight"]
    whole = block(hidden)
    close(whole, block_by_hand(block, hidden))
    kept = types.SimpleNamespace(seqlen_offset=0, key_value_memory_dict={})
    parts = [block(hidden[:, :2], inference_params=kept)]  # shorter than the convolution's window
    for place in range(2, LENGTH):
        kept.seqlen_offset = place
        parts.append(block(hidden[:, place : place + 1], inference_params=kept))
    close(torch.cat(parts, dim=1), whole)
    with pytest.raises(ValueError, match="expected one position to go on with; found 2"):
        block(hidden[:, :2], inference_params=kept)
    with pytest.raises(ValueError, match="dt_init"):
        Mamba(16, dt_init="zero")
