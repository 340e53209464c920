"""Small models of the transformers library and convolutional blocks through the backend, against eager: inference, training
and generation."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.capture.conftest import engine  # noqa: F401
from tests.capture.engines import ReferenceEngine
from torch_autokernel.capture.backend import autokernel

pytestmark = pytest.mark.slow
transformers = pytest.importorskip("transformers")
compile_ak = functools.partial(torch.compile, backend=autokernel, options={"rest": "eager", "strict": True})
SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}


def gpt2() -> Any:
    config = {"vocab_size": 100, "n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**config, **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)))


def bert() -> Any:
    return transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))


def llama() -> Any:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, num_key_value_heads=2))


def mistral() -> Any:
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4))


MODELS: dict[str, Callable[[], Any]] = {f.__name__: f for f in (gpt2, bert, llama, mistral)}


@pytest.mark.parametrize("name", MODELS)
def test_language_models(engine: ReferenceEngine, name: str) -> None:  # noqa: F811
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    ids, mask = torch.randint(3, 100, (2, 9)), torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "labels": ids, **({} if name == "bert" else {"use_cache": False})}
    other = copy.deepcopy(model)
    expected, got = model(**given), compile_ak(other)(**given)
    torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-4)
    (expected.loss + expected.logits.square().mean()).backward()
    (got.loss + got.logits.square().mean()).backward()
    for (key, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-4, msg=lambda m, key=key: f"{key}: {m}")
    assert engine.calls


def test_generation_with_a_cache(engine: ReferenceEngine) -> None:  # noqa: F811
    torch.manual_seed(0)
    model = llama().eval()
    ids = torch.randint(3, 100, (2, 5))
    how = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **how)
    model.forward = compile_ak(model.forward)
    assert torch.equal(model.generate(ids, **how), expected) and engine.calls


class Convolutions(torch.nn.Module):
    """A residual block, a depthwise convolution, and a small U."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.depthwise, self.groups = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8), torch.nn.GroupNorm(2, 8)
        self.up, self.last = torch.nn.ConvTranspose2d(16, 4, 2, 2), torch.nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.norm(self.first(x)))
        h = F.silu(self.groups(self.depthwise(h))) + h
        p = F.max_pool2d(h, 2)
        q = F.avg_pool2d(F.interpolate(p, scale_factor=2.0, mode="nearest"), 2)
        v = F.interpolate(self.up(torch.cat([q, p], 1)), size=x.shape[-2:], mode="bilinear")
        return torch.sigmoid(self.last(v)) * x


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_convolutions(engine: ReferenceEngine, memory: torch.memory_format) -> None:  # noqa: F811
    torch.manual_seed(0)
    model = Convolutions().to(memory_format=memory)
    other = copy.deepcopy(model)
    compiled = compile_ak(other)
    x = torch.randn(2, 3, 8, 8).to(memory_format=memory)
    for training in (True, False):
        model.train(training), other.train(training)
        expected, got = model(x), compiled(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert got.stride() == expected.stride()
        expected.sum().backward(), got.sum().backward()
    for a, b in zip([*model.parameters(), *model.buffers()], [*other.parameters(), *other.buffers()], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, rtol=1e-3, atol=1e-4)
    assert engine.calls
