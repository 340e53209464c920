"""Progress on stderr: one updating line on a terminal, plain lines otherwise."""

from __future__ import annotations

import shutil
from typing import TextIO

from torch_autokernel.core.bill import Bill
from torch_autokernel.core.events import Event

_QUIET = {"region.hit", "region.miss", "search.accepted", "search.refused"}  # the last two are followed by a region's outcome
_TOLD = {
    "search.region": "searching, sizes {sizes}",
    "search.proposed": "{candidates} candidates proposed",
    "search.compiled": "{compiled} of {of} candidates compiled",
    "search.screened": "{ran} of {of} candidates ran",
    "search.judged": "candidate {candidate:.8} judged: {why}",
    "timing.baselines": "baselines compiled in {seconds:.1f} s",
    "search.resumed": "taken up again after {rounds} rounds",
    "search.best": "best so far {speedup:.2f}x of {baseline}, by {by}",
    "llm.call": "{role} asked, {model}{trouble}",
    "search.timed": "candidate {candidate:.8} timed: {speedup:.2f}x of {baseline} ({low:.2f} to {high:.2f})",
}


class Progress:
    """A subscriber to events. `status` is replaced by what comes next, `line` stays. Without a terminal only `line`s and
    the events that end something are written."""

    def __init__(self, stream: TextIO, verbose: int = 0) -> None:
        self.stream = stream
        self.verbose = verbose
        self.terminal = stream.isatty()
        self._open = False
        self._told: set[str] = set()
        self.bill = Bill()

    def status(self, text: str) -> None:
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r\x1b[K{text[:width]}")
            self.stream.flush()
            self._open = True
        elif self.verbose:
            self.line(text)

    def line(self, text: str) -> None:
        self.close()
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Remove the updating line."""
        if self._open:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            self._open = False

    def __call__(self, event: Event) -> None:
        if event.name in _QUIET:
            return
        signature = str(event.facts.get("signature", ""))[:12]
        if event.name.startswith("region."):
            text = f"region {signature} {event.name[7:]}: {event.facts.get('reason', '')}"
            if text not in self._told:  # a region is looked up again for each graph it is in
                self._told.add(text)
                self.line(text)
        else:
            self.bill(event)
            text = f"region {signature}: {told(event)}" if signature else told(event)
            self.status(f"{self.bill.short()}{text}")


def told(event: Event) -> str:
    """An event in a few words; one that is not known by its name and its facts."""
    try:
        known = {**event.facts, "trouble": f": {event.facts['problem']}" if event.facts.get("problem") else ""}
        return _TOLD[event.name].format_map(known)
    except (KeyError, ValueError, TypeError):
        facts = ", ".join(f"{k} {v}" for k, v in event.facts.items() if k != "signature")
        return f"{event.name.replace('.', ' ')}: {facts}" if facts else event.name.replace(".", " ")
