"""Run in a process of its own: compile a small model, call it, and print what happened as JSON."""

from __future__ import annotations

import json
import logging
import sys

SEARCHING = ("torch_autokernel.search", "torch_autokernel.propose", "torch_autokernel.verify", "httpx")


class GenerousClock:
    """Stands where `Stopwatch` stands and finds everything twice as fast as Inductor: what is tested here is the cache, which
    must not depend on how busy the machine is."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def prepare(self, region: object) -> None: ...

    def forget(self, region: object) -> None: ...

    def close(self) -> None: ...

    def time(self, region: object, artifacts: list[object], seconds: float, fresh: bool = False) -> list[object]:
        from torch_autokernel.core.types import Timing

        return [Timing((1.0, 1.0), (2.0, 2.0), "inductor", 2.0, 2.0, 2.0, "not measured") for _ in artifacts]


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def main(options: dict[str, object], kind: str) -> None:
    import torch
    import torch.nn.functional as F
    from torch._dynamo.utils import counters

    if options.pop("generous", False):
        import torch_autokernel.search.loop as loop

        loop.Stopwatch = GenerousClock  # type: ignore[assignment,misc]
    lines = _Lines()
    logging.getLogger("torch_autokernel").addHandler(lines)
    logging.getLogger("torch_autokernel").setLevel(logging.INFO)
    torch.manual_seed(0)
    w = torch.randn(2048)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x * w, -1) + 1

    x = torch.randn(512, 2048, requires_grad=kind == "training")
    if kind == "decorated":
        import torch_autokernel as ak

        call = ak.autokernel(plain_of_two, **options)
        args = (x, w)
        want = plain_of_two(*args)
    else:
        call, args, want = torch.compile(plain, backend="autokernel", options=options), (x,), plain(x)
    got = call(*args)
    error = float((got - want).abs().max())
    if kind == "training":
        (g,) = torch.autograd.grad(got.square().sum(), x)
        (h,) = torch.autograd.grad(want.square().sum(), x)
        error = max(error, float((g - h).abs().max() / h.abs().max()))
    out = {
        "error": error,
        "counters": dict(counters["autokernel"]),
        "inductor": {k: v for k, v in counters["inductor"].items() if k.startswith("fxgraph_cache")},
        "aot": {k: v for k, v in counters["aot_autograd"].items() if k.startswith("autograd_cache")},
        "loaded": sorted({m for m in sys.modules if m.startswith(SEARCHING)}),
        "log": lines.lines,
    }
    print("RESULT " + json.dumps(out))


def plain_of_two(x, w):  # type: ignore[no-untyped-def]
    import_free = x * w
    return import_free.softmax(-1) + 1


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
