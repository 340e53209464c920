"""`on_miss="background"`: the fallback runs, another process searches, the kernels are swapped in when they are verified.

A graph with static sizes is compiled again in this process once the search is over; one with dynamic sizes takes the kernels
at its next compilation, because its guards belong to dynamo.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch_autokernel.capture.settle import Joined, settle
from torch_autokernel.core.config import FIELDS, KEY_VARIABLE, OF_THE_PROCESS, Config, config
from torch_autokernel.core.types import Region
from torch_autokernel.engine import Engine

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_KEPT = ("llm_api_key", "disable", "strict", "rest", "on_miss")  # a key is never written to a file: the environment has it
_PASSED_ON = tuple(name for name in FIELDS if name not in (*_KEPT, *OF_THE_PROCESS))


class Search:
    """A search that runs in a process beside this one."""

    def __init__(self, regions: Sequence[Joined], options: Config, folder: Path) -> None:
        handle, name = tempfile.mkstemp(suffix=".json", prefix="background-", dir=folder)
        passed = {k: getattr(options, k) for k in _PASSED_ON} | {"cache_dir": str(options.cache_path)}
        told = [[whole.to_json(), [p.to_json() for p in parts]] for whole, parts in regions]
        with os.fdopen(handle, "w") as file:
            json.dump({"options": passed, "regions": told, "threads": _threads()}, file)
        command = [sys.executable, "-m", "torch_autokernel.capture.background", name]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        environment |= {KEY_VARIABLE: options.llm_api_key} if options.llm_api_key else {}
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        env=environment, start_new_session=True)  # fmt: skip
        self._next_look = 0.0
        log.info("searching for %d regions in process %d", len(regions), self.process.pid)

    def over(self) -> bool:
        """Whether the search has ended; asks the system at most five times a second."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _LOOK_EVERY_S
        return self.process.poll() is not None


class Swapping:
    """A compiled function that is compiled once more when its searches are over."""

    def __init__(
        self, compiled: Callable[..., Any], again: Callable[[], Callable[..., Any]], searches: Sequence[Search]
    ) -> None:
        self.compiled = compiled
        self.again: Callable[[], Callable[..., Any]] | None = again
        self.searches = searches
        self._boxed_call = getattr(compiled, "_boxed_call", False)

    def __call__(self, *args: Any) -> Any:
        if self.again is not None and all(s.over() for s in self.searches):
            again, self.again = self.again, None
            self.compiled = again()
            log.info("the kernels found in the background are in use")
        return self.compiled(*args)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def main(path: str) -> int:
    """Search for the regions of a file and store what is found."""
    import torch

    request = json.loads(Path(path).read_text())
    Path(path).unlink(missing_ok=True)
    torch.set_num_threads(request["threads"])
    resolved = config.resolve({**request["options"], "on_miss": "generate"})
    joined = [(Region.from_json(whole), tuple(map(Region.from_json, parts))) for whole, parts in request["regions"]]
    settle(Engine.current(resolved), joined, resolved)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
