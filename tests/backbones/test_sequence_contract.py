"""What every sequence backbone promises, tested on a small instance of each family."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mambarium.backbones import (
    LSTM,
    S4D,
    BlockRecurrentTransformer,
    BlockStateTransformer,
    Mamba,
    MoEMamba,
    SequenceBackbone,
    State,
    Transformer,
    detach_state,
    initialize,
    map_state,
    reorder_state,
)
from mambarium.backbones.recomputation import recompute_activations
from mambarium.errors import InputError

WIDTH = 12
FAMILIES: dict[str, Callable[[], SequenceBackbone]] = {
    "mamba": lambda: Mamba(WIDTH, depth=2, d_state=3, dropout=0.1),
    "mamba_narrow_convolution": lambda: Mamba(WIDTH, depth=2, d_state=1, d_conv=2, expand=1, dt_rank=5),
    "mamba_residual_in_input_type": lambda: Mamba(WIDTH, depth=1, residual_in_fp32=False),
    "moe_mamba": lambda: MoEMamba(WIDTH, depth=2, num_experts=3, d_state=3, dropout=0.1),
    "moe_mamba_parallel": lambda: MoEMamba(
        WIDTH, depth=1, num_experts=2, expert_width=7, overflow="probability", parallel=True
    ),
    "transformer": lambda: Transformer(WIDTH, depth=2, num_heads=2, dropout=0.1),
    "transformer_grouped": lambda: Transformer(WIDTH, depth=1, num_heads=6, num_key_value_heads=2, mlp_width=5),
    "lstm": lambda: LSTM(WIDTH, depth=2, hidden_size=7, dropout=0.1),
    "s4d": lambda: S4D(WIDTH, depth=2, d_state=6, dropout=0.1),
    "block_state_transformer": lambda: BlockStateTransformer(
        WIDTH, depth=3, num_heads=2, window_size=4, context_layers=[0, 2], d_state=4, mlp_width=9, dropout=0.1
    ),
    "block_state_transformer_multi_head": lambda: BlockStateTransformer(
        WIDTH, 1, 3, window_size=4, context="multi_head", d_state=4, mlp_width=9
    ),
    "block_state_transformer_multi_filter": lambda: BlockStateTransformer(
        WIDTH, 2, 2, window_size=4, context_layers=[0, 1], context="multi_filter", num_states=3, d_state=4, mlp_width=9
    ),
    "block_state_transformer_unstructured": lambda: BlockStateTransformer(
        WIDTH, 1, 2, window_size=4, filters="unstructured", filter_length=13, mlp_width=9
    ),
    "block_state_transformer_multi_filter_unstructured": lambda: BlockStateTransformer(
        WIDTH, 2, 2, 3, context="multi_filter", filters="unstructured", num_states=2, filter_length=13, mlp_width=9
    ),
    "block_recurrent_transformer": lambda: BlockRecurrentTransformer(
        WIDTH, depth=2, num_heads=2, window_size=4, recurrent_layers=[0, 1], num_states=3, mlp_width=9, dropout=0.1
    ),
}
LENGTH = 13
# Lengths of chunks, all smaller and larger than the convolution's memory among them.
SPLITS = [[13], [1] * 13, [5, 8], [1, 12], [2, 1, 3, 7], [12, 1]]
DOCUMENTS = torch.tensor(
    [
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [4, 4, 4, 4, 4, 7, 7, 7, 1, 2, 4, 4, 4],
        [9, 9, 3, 9, 9, 9, 9, 9, 9, 9, 9, 9, -1],
    ]
)


@pytest.fixture(params=FAMILIES)
def backbone(request: pytest.FixtureRequest) -> SequenceBackbone:
    torch.manual_seed(0)
    model = FAMILIES[request.param]().eval()
    # Weights far from their small initial values, so that every path matters.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1))


def leaves(state: State) -> list[Tensor]:
    found: list[Tensor] = []
    map_state(state, lambda tensor: found.append(tensor) or tensor)
    return found


def run_in_chunks(
    model: SequenceBackbone, x: Tensor, split: list[int], document_ids: Tensor | None = None
) -> tuple[Tensor, State]:
    state: State | None = model.initial_state(x.shape[0], max_length=x.shape[1])
    features = []
    start = 0
    for length in split:
        ids = None if document_ids is None else document_ids[:, start : start + length]
        output = model(x[:, start : start + length], state, document_ids=ids)
        features.append(output.features)
        state = output.state
        start += length
    assert state is not None
    return torch.cat(features, dim=1), state


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_shapes(backbone: SequenceBackbone, x: Tensor) -> None:
    assert backbone.width == WIDTH
    for length in (1, 2, LENGTH):
        output = backbone(x[:, :length])
        assert output.features.shape == (3, length, WIDTH)
        assert output.state is None
        assert all(loss.ndim == 0 for loss in output.auxiliary_losses.values())


@pytest.mark.parametrize("split", SPLITS, ids=str)
@torch.no_grad()
def test_chunks_equal_one_pass(backbone: SequenceBackbone, x: Tensor, split: list[int]) -> None:
    features, state = run_in_chunks(backbone, x, split)
    close(features, backbone(x).features)
    _, state_of_one_pass = run_in_chunks(backbone, x, [LENGTH])
    if backbone.constant_state:
        for found, expected in zip(leaves(state), leaves(state_of_one_pass), strict=True):
            close(found, expected)


@torch.no_grad()
def test_constant_state_does_not_grow(backbone: SequenceBackbone, x: Tensor) -> None:
    empty = leaves(backbone.initial_state(3, max_length=LENGTH))
    _, state = run_in_chunks(backbone, x, [5, 8])
    if backbone.constant_state:
        assert [t.shape for t in leaves(state)] == [t.shape for t in empty]
        assert [t.dtype for t in leaves(state)] == [t.dtype for t in empty]
    assert all(t.shape[0] == 3 for t in leaves(state))


def test_no_position_sees_the_future(backbone: SequenceBackbone, x: Tensor) -> None:
    x = x.requires_grad_()
    for position in (0, 4, LENGTH - 1):
        (gradient,) = torch.autograd.grad(backbone(x).features[:, position].sum(), x)
        assert gradient[:, position + 1 :].abs().max().item() == 0 if position + 1 < LENGTH else True
        assert gradient[:, : position + 1].abs().amin(dim=(0, 2)).min() > 0


@pytest.mark.parametrize("split", SPLITS, ids=str)
@torch.no_grad()
def test_documents_are_separate_sequences(backbone: SequenceBackbone, x: Tensor, split: list[int]) -> None:
    features, _ = run_in_chunks(backbone, x, split, DOCUMENTS)
    for row, ids in enumerate(DOCUMENTS.tolist()):
        starts = [0, *(i for i in range(1, LENGTH) if ids[i] != ids[i - 1]), LENGTH]
        for start, end in pairwise(starts):
            alone = backbone(x[row : row + 1, start:end]).features
            close(features[row : row + 1, start:end], alone)
    close(features, backbone(x, document_ids=DOCUMENTS).features)


@torch.no_grad()
def test_reordered_state_follows_its_sequences(backbone: SequenceBackbone, x: Tensor) -> None:
    order = torch.tensor([2, 0, 0, 1])
    state = backbone(x[:, :6], backbone.initial_state(3, max_length=LENGTH)).state
    features = backbone(x[order, 6:], reorder_state(state, order)).features
    close(features, backbone(x).features[order, 6:])


def test_gradients_flow_through_the_state(backbone: SequenceBackbone, x: Tensor) -> None:
    x = x.requires_grad_()
    (expected,) = torch.autograd.grad(backbone(x).features[:, 8:].pow(2).sum(), x)
    features, _ = run_in_chunks(backbone, x, [3, 5, 1, 4])
    (found,) = torch.autograd.grad(features[:, 8:].pow(2).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

    state = backbone(x[:, :8], backbone.initial_state(3, max_length=LENGTH)).state
    cut = backbone(x[:, 8:], detach_state(state)).features
    (found,) = torch.autograd.grad(cut.pow(2).sum(), x)
    assert found[:, :8].abs().max() == 0


def test_gradients_reach_every_parameter(backbone: SequenceBackbone, x: Tensor) -> None:
    backbone.train()
    backbone(x).features.pow(2).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@torch.no_grad()
def test_deterministic_in_evaluation(backbone: SequenceBackbone, x: Tensor) -> None:
    assert torch.equal(backbone(x).features, backbone(x).features)


@torch.no_grad()
def test_bfloat16_autocast_stays_near_float32(backbone: SequenceBackbone, x: Tensor) -> None:
    expected = backbone(x).features
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = run_in_chunks(backbone, x, [5, 8])
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_whole_model_in_bfloat16(backbone: SequenceBackbone, x: Tensor) -> None:
    backbone.bfloat16()
    x = x.bfloat16()
    found, _ = run_in_chunks(backbone, x, [5, 1, 7])
    assert found.dtype == torch.bfloat16
    expected = backbone(x).features
    assert (found - expected).norm() < 0.05 * expected.norm()


def test_depths(backbone: SequenceBackbone) -> None:
    depths = [backbone.depth_of(name) for name, _ in backbone.named_parameters()]
    assert depths == sorted(depths)
    assert min(depths) >= 0 and max(depths) == backbone.max_depth


@pytest.mark.parametrize("family", FAMILIES)
def test_built_without_memory_and_then_initialised(family: str) -> None:
    torch.manual_seed(3)
    expected = FAMILIES[family]()
    with torch.device("meta"):
        model: nn.Module = FAMILIES[family]()
    model.to_empty(device="cpu")
    torch.manual_seed(3)
    initialize(model)
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_bad_input_is_told_in_one_line(backbone: SequenceBackbone, x: Tensor) -> None:
    with pytest.raises(InputError, match="width"):
        backbone(x[..., :5])
    with pytest.raises(InputError, match="3 sequences"):
        backbone(x[:2], backbone.initial_state(3, max_length=LENGTH))
    with pytest.raises(InputError, match="document_ids"):
        backbone(x, document_ids=DOCUMENTS[:, :4])
    with pytest.raises(InputError, match="integers"):
        backbone(x, document_ids=DOCUMENTS.float())


@pytest.mark.parametrize(
    "other",
    [
        lambda: Mamba(WIDTH, depth=1, d_state=3),
        lambda: Mamba(WIDTH, depth=2, d_state=4),
        lambda: Mamba(WIDTH, depth=2, d_state=3, d_conv=2),
        lambda: Mamba(2 * WIDTH, depth=2, d_state=3),
    ],
)
def test_the_state_of_another_mamba_is_refused(other: Callable[[], Mamba], x: Tensor) -> None:
    with pytest.raises(InputError, match="not one of this Mamba of 2 layers"):
        Mamba(WIDTH, depth=2, d_state=3)(x, other().initial_state(3))


@pytest.mark.parametrize("state", [torch.zeros(3), [], {"layers": []}])
def test_what_is_no_state_is_refused(state: State, x: Tensor) -> None:
    with pytest.raises(InputError, match="initial_state"):
        Mamba(WIDTH, depth=2)(x, state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"d_state": 0}, "d_state must be at least 1, got 0"),
        ({"expand": 0}, "expand must be at least 1, got 0"),
        ({"dt_rank": 0}, "dt_rank must be at least 1, got 0"),
        ({"d_conv": 1}, "d_conv must be 2, 3 or 4"),
        ({"d_conv": 5}, "d_conv must be 2, 3 or 4"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0"),
    ],
)
def test_arguments_that_do_not_fit_are_told_in_one_line(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mamba(**arguments)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_state_matrix_does_not_depend_on_the_default_dtype(dtype: torch.dtype) -> None:
    expected = Mamba(WIDTH, depth=1, d_state=300).layers[0].mixer.ssm.A_log
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        found = Mamba(WIDTH, depth=1, d_state=300).layers[0].mixer.ssm.A_log
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(found, expected)


def saved_bytes_and_gradients(model: SequenceBackbone, x: Tensor) -> tuple[int, list[Tensor | None]]:
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.nbytes
        return tensor

    torch.manual_seed(3)
    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(x)
    (output.features.square().sum() + sum(output.auxiliary_losses.values())).backward()
    return saved, [parameter.grad for parameter in model.parameters()]


def test_activations_are_recomputed(backbone: SequenceBackbone, x: Tensor) -> None:
    backbone.train()
    kept, expected = saved_bytes_and_gradients(backbone, x)
    recompute_activations(backbone)
    kept_less, found = saved_bytes_and_gradients(backbone, x)
    assert kept_less < kept
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["mamba", "moe_mamba", "s4d", "transformer", "block_state_transformer"])
def test_one_compiled_graph(name: str, x: Tensor) -> None:
    torch.manual_seed(0)
    model = FAMILIES[name]()
    # In evaluation a mixture of experts gives each expert as many tokens as chose it: shapes that no graph has.
    model.train(name == "moe_mamba")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def features(x: Tensor) -> Tensor:
        return model(x).features

    torch.compiler.reset()
    close(torch.compile(features, backend="eager", fullgraph=True)(x), features(x))
