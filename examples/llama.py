"""A small Llama-type decoder from the transformers package, random weights: inference and one training step.

python examples/llama.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from compare import arguments, compare
from transformers import LlamaConfig, LlamaForCausalLM

BATCH, LENGTH, VOCABULARY = 8, 128, 2048


def decoder(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=128, intermediate_size=352, num_hidden_layers=4, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=VOCABULARY, use_cache=False)  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def main() -> None:
    options = arguments(__doc__)
    tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    for name in options.dtype:
        dtype = getattr(torch, name)
        model = decoder(dtype)

        def inference(call: Callable[..., Any]) -> Callable[[], list[torch.Tensor]]:
            def step() -> list[torch.Tensor]:
                with torch.no_grad():
                    return [call(tokens).logits]

            return step

        def training(call: Callable[..., Any], model: LlamaForCausalLM = model) -> Callable[[], list[torch.Tensor]]:
            def step() -> list[torch.Tensor]:
                model.zero_grad(set_to_none=True)
                loss = call(tokens, labels=tokens).loss
                loss.backward()
                return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

            return step

        compare("Llama inference", inference, model.eval(), options, dtype)
        compare("Llama training step", training, model.train(), options, dtype)


if __name__ == "__main__":
    main()
