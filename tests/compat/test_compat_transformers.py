"""transformers' Mamba on our operations; in a process of its own, since imports can't be undone."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.thorough

# transformers takes the operations of mamba_ssm and causal_conv1d where it can import them, else its own plain ones:
# read a second time, its module finds ours. A model's methods look functions up in their module when they are called.
CODE = """
import importlib
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MambaConfig
from transformers.models.mamba import modeling_mamba

torch.manual_seed(0)
config = MambaConfig(vocab_size=50, hidden_size=32, state_size=16, num_hidden_layers=2, use_associative_scan=False)
model = modeling_mamba.MambaForCausalLM(config)
tokens = torch.randint(0, 50, (2, 37))

def results():
    found = {}
    with FlopCounterMode(display=False) as counter:
        for training in (False, True):
            model.train(training)
            output = model(tokens, labels=tokens, use_cache=False)
            found[f"logits, training {training}"] = output.logits
            for (name, _), grad in zip(
                model.named_parameters(), torch.autograd.grad(output.loss, list(model.parameters())), strict=True
            ):
                found[f"{name}, training {training}"] = grad
        model.eval()
        with torch.no_grad():
            output = model(tokens[:, :-2], use_cache=True)
            for t in (-2, -1):
                output = model(tokens[:, t : t + 1 or None], cache_params=output.cache_params, use_cache=True)
                found[f"logits of step {t}"] = output.logits
    return found, {str(operation) for operation in counter.get_flop_counts()["Global"]}

expected, operations = results()
assert not any("mambarium" in operation for operation in operations), operations

import mambarium.compat
importlib.reload(modeling_mamba)
found, operations = results()
ours = ("selective_scan_forward", "selective_scan_backward", "selective_state_update", "causal_conv1d_forward")
assert {f"mambarium.{name}" for name in ours} <= operations, operations
for name, value in expected.items():
    assert value.dtype == torch.float32 and value.norm() > 0, name
    if name.startswith("logits"):
        assert value.abs().max() > 0.1, name
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=lambda text: name + text)
    else:
        assert (found[name] - value).norm() <= 1e-5 * value.norm(), name
"""


def test_mamba_has_the_same_logits_and_gradients():
    pytest.importorskip("transformers")
    environment = {**os.environ, "MAMBARIUM_BACKEND": "", "HF_HUB_OFFLINE": "1"}
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, timeout=600)
    assert run.returncode == 0, run.stderr
