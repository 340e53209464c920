"""Random scans and recurrent layers, and whether their programs are faithful: `python -m tests.fuzz.scans 200 [seed]`.

A scan has one to three states, one or two sequences along any dimension, forwards or from the end, invariants before and in its
step, and results that are read or not; a layer has a random kind, size, depth, direction, projection, layout and dtype. The
program, with printed loops for kernels, must give what eager gives.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._higher_order_ops import scan
from torch.utils import _pytree as pytree

from tests.fuzz.loops import _BINARY, _UNARY
from torch_autokernel.capture.operators import run_reference
from torch_autokernel.capture.reference import load_reference
from torch_autokernel.capture.staged import capture_staged, program
from torch_autokernel.core.errors import CaptureError

Tensor = torch.Tensor
SIZE = 6
Drawn = tuple[Callable[..., Any], list[Any], nn.Module | None]


def scanned(rng: random.Random) -> Drawn:
    """A forward over (x, y, w [N, N], three states [B, N]); time stands anywhere."""
    count, dim, back = rng.randint(1, 3), rng.randrange(3), rng.random() < 0.3
    chain = [(rng.randrange(6), rng.randrange(64), rng.randrange(64), rng.randrange(64)) for _ in range(rng.randint(2, 7))]
    wanted, before, zeros = rng.sample(range(2 * count), rng.randint(1, 2 * count)), rng.random() < 0.4, rng.random() < 0.4
    passed = rng.random() < 0.15

    def forward(x: Tensor, y: Tensor, w: Tensor, *given: Tensor) -> Any:
        def step(states: Any, now: Any) -> Any:
            pool = [*states, *now]
            for kind, a, b, f in chain:
                one, two = pool[a % len(pool)], pool[b % len(pool)]
                if kind == 0:
                    pool.append(torch.tanh(one @ w))
                elif kind == 1:
                    pool.append(torch.tanh(one * w[f % SIZE] + w.exp().sum(0) * 0.1))
                elif kind < 4:
                    pool.append(_UNARY[f % len(_UNARY)](one))
                else:
                    pool.append(torch.tanh(_BINARY[f % len(_BINARY)](one, two)))
            fresh = [p.clone() for p in pool[-count:]]
            if passed:
                fresh[0] = now[0].clone()
            return tuple(fresh), tuple(p * 2 + states[0] for p in pool[:count])

        first = tuple(torch.zeros_like(s) if zeros else s for s in given[:count])
        last, ys = scan(step, first, (x @ w if before else x, y), dim=dim, reverse=back)
        return [(*last, *ys)[k] for k in wanted]

    length, batch = rng.choice((1, 2, 9)), rng.choice((1, 3))
    shape = [batch, SIZE]
    shape.insert(dim, length)
    states = [torch.randn(batch, SIZE) for _ in range(3)]
    if dim == 2:  # what stands before the scan multiplies along the last dimension
        before = False
    return forward, [torch.randn(shape), torch.randn(shape), torch.randn(SIZE, SIZE) * 0.4, *states], None


def layered(rng: random.Random) -> Drawn:
    kind = rng.choice((nn.LSTM, nn.GRU, nn.RNN))
    inputs, size, layers = rng.randint(1, 9), rng.randint(2, 9), rng.randint(1, 3)
    more: dict[str, Any] = {"nonlinearity": rng.choice(("tanh", "relu"))} if kind is nn.RNN else {}
    if kind is nn.LSTM and rng.random() < 0.3:
        more["proj_size"] = rng.randint(1, size - 1)
    layer = kind(inputs, size, layers, bias=rng.random() < 0.7, batch_first=rng.random() < 0.5, bidirectional=rng.random() < 0.4,
                 dtype=rng.choice((torch.float32, torch.bfloat16)), **more)  # fmt: skip
    length, batch = rng.choice((1, 2, 11)), rng.choice((None, 1, 4))
    shape = (length,) if batch is None else (batch, length) if layer.batch_first else (length, batch)
    dtype = next(layer.parameters()).dtype
    args: list[Any] = [torch.randn(*shape, inputs, dtype=dtype)]
    if rng.random() < 0.5:
        middle = () if batch is None else (batch,)
        count = layers * (2 if layer.bidirectional else 1)
        h = torch.randn(count, *middle, layer.proj_size or size, dtype=dtype)
        args += [h, torch.randn(count, *middle, size, dtype=dtype)] if kind is nn.LSTM else [h]

    def forward(self: Any, x: Tensor, *state: Tensor) -> Any:
        return kind.forward(self, x, *([state] if kind is nn.LSTM else state)) if state else kind.forward(self, x)

    return forward, args, layer


def check(seed: int) -> str:
    """`same`, or why it was refused; raises AssertionError where the program is another one than the original."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    forward, args, module = rng.choice((scanned, layered))(rng)
    try:
        staged = capture_staged(forward, args, module)
    except CaptureError as refused:
        return refused.message
    kernels = {}
    for node, found in staged.scans.items():
        function = load_reference(found.region.reference)
        kernels[node] = lambda *xs, s=found.region.signature, f=function: run_reference(s, f, xs)
    state = [] if module is None else [*module.parameters()]
    with torch.no_grad():
        got = program(staged, kernels)(*args, *state)
        want = pytree.tree_leaves(forward(*args) if module is None else forward(module, *args))
    near = 0.06 if want[0].dtype is torch.bfloat16 else 1e-4
    for k, o in enumerate(staged.outputs):
        torch.testing.assert_close(got[o], want[k], rtol=near, atol=near, msg=lambda m, k=k: f"seed {seed}, result {k}: {m}")
    return "same"


def main(count: int, seed: int) -> int:
    told: dict[str, int] = {}
    for k in range(count):
        outcome = check(seed + k)
        told[outcome] = told.get(outcome, 0) + 1
    for outcome, times in sorted(told.items(), key=lambda kv: -kv[1]):
        print(f"{times:5d} {outcome}")
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)))
