"""Training calls of torch's own recurrent layers: every direction of every layer is a loop with two kernels.

The layer's forward runs as it is, but for its call of `torch.lstm` or a sister: that is written out as products with the
inputs, which autograd records, and loops over time between them, each trained as a user's own loop is (`loop_plan.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torch_autokernel.capture.beside import Beside, apart, refuted
from torch_autokernel.capture.direct import MISS, or_reason
from torch_autokernel.capture.loop_plan import Trainer
from torch_autokernel.capture.purity import Watched
from torch_autokernel.capture.rnn import KINDS, Direction, as_layers, product
from torch_autokernel.capture.staged import own_weights
from torch_autokernel.capture.trainable import watched_for_training
from torch_autokernel.capture.whole import flattened, named_state
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import CaptureError
from torch_autokernel.engine import Engine

LAYERS = (torch.nn.LSTM, torch.nn.GRU, torch.nn.RNN)
Tensor = torch.Tensor


@functools.cache
def over_time(name: str) -> Callable[..., tuple[Tensor, ...]]:
    """The loop of one direction: of xw [T, B, G*H], the first states [B, H] and the weights, all results [T, B, H] and the last
    states."""
    cell = KINDS[name]

    def lstm(xw: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ys = []
        for t in range(xw.shape[0]):
            h, c, y = cell(h, c, xw[t], *weights)
            ys.append(y)
        return torch.stack(ys), h, c

    def other(xw: Tensor, h: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        ys = []
        for t in range(xw.shape[0]):
            h, y = cell(h, xw[t], *weights)
            ys.append(y)
        return torch.stack(ys), h

    return lstm if name == "lstm" else other


class LayerTrainer(Trainer):
    """The plans of one layer."""

    def __init__(self, function: Callable[..., Any], module: torch.nn.Module, options: dict[str, Any]) -> None:
        super().__init__(function, module, options)
        self.loops = True
        self.directions: dict[str, Trainer] = {}

    def make(self, args: tuple[Any, ...], config: Config) -> LayerPlan | str:
        """A plan for calls like this one, or the reason why there is none."""
        assert self.module is not None
        tensors = [*(a for a in args if isinstance(a, Tensor)), *named_state(self.module)]
        watched = watched_for_training(self.function, self.module, tensors)
        if isinstance(watched, str):
            return watched
        plan = LayerPlan(self, watched)

        def made() -> LayerPlan | str:
            call, _spec = flattened(self.function, args, self.module)
            with apart(), own_weights(self.module):
                beside = Beside(lambda given: self.in_kernels(call, given), self.function, args, self.module)
                if reason := refuted(beside):
                    return reason
                if Engine.current(config).timed and not beside.faster():
                    return "forward and backward together are no faster than the original"
            return plan

        return or_reason(made, config, "a layer cannot be trained by kernels")

    def in_kernels(self, call: Callable[..., Any], given: Sequence[Any]) -> Any:
        """The call with its loops by kernels; raises CaptureError where one has none."""
        with as_layers(self._direction):
            return call(*given)

    def _direction(self, name: str, x: Tensor, states: tuple[Tensor, ...], params: Sequence[Tensor], has_biases: bool,
                   back: bool) -> Direction:  # fmt: skip
        w_ih, w_hh, *rest = params
        xw = product(x, w_ih, rest.pop(0) if has_biases else None)
        if name not in self.directions:
            self.directions[name] = Trainer(over_time(name), None, self.options)
        loop = self.directions[name]
        made = loop((xw.flip(0) if back else xw, *(s.contiguous() for s in states), w_hh, *rest))
        if made is MISS:
            raise CaptureError(next(reversed(loop.failed.values()), "a loop has no plan"))
        y, *last = made
        return y.flip(0) if back else y, tuple(last)


class LayerPlan:
    """Calls of one kind, which is what the trainer's key says."""

    def __init__(self, trainer: LayerTrainer, watched: Watched) -> None:
        self.trainer, self.watched = trainer, watched

    def __call__(self, args: tuple[Any, ...]) -> Any:
        if not self.watched.holds():
            return MISS
        try:
            return self.trainer.in_kernels(self.trainer.function, (self.trainer.module, *args))
        except CaptureError:
            return MISS
