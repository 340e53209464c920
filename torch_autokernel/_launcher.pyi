from typing import Any

import torch

ABI: int

def huge_pages(flag: bool) -> bool: ...
def inside(exchange: Any, tensor: torch.Tensor, limit: int, spared: int | None) -> bool: ...

class Launcher:
    def __new__(
        cls,
        entry: int,
        *,
        symbols: tuple[tuple[str, int, int], ...],
        inputs: tuple[Any, ...],
        outputs: tuple[Any, ...],
        workspace: tuple[Any, ...],
        types: tuple[type, ...],
        empty: Any,
        is_neg: Any,
        miss: type[Exception],
        exchange: Any,
        owner: object,
    ) -> Launcher: ...
    def __call__(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]: ...
    def check(self, *tensors: torch.Tensor) -> str | None: ...

class CallCache:
    def __new__(
        cls,
        routes: tuple[Any, ...],
        *,
        types: tuple[type, ...],
        recording: Any,
        miss: object,
        missed: type[Exception],
        exchange: Any,
    ) -> CallCache: ...
    def __call__(self, args: tuple[Any, ...]) -> Any: ...
