"""A language model and the built-in proposer look for a kernel together: the whole run on one region, with the conversation.

python examples/agents.py                       # a scripted stand-in, contacts nobody
TORCH_AUTOKERNEL_LLM_MODEL=... TORCH_AUTOKERNEL_LLM_BASE_URL=http://127.0.0.1:8000/v1 python examples/agents.py
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scripted_author import answer

from torch_autokernel.app.bill import Bill
from torch_autokernel.capture.whole import region_of
from torch_autokernel.core import events, points
from torch_autokernel.core.config import Config, config
from torch_autokernel.core.types import Budget, Region
from torch_autokernel.propose.llm.author import CONVERSATION, LlmProposer
from torch_autokernel.propose.llm.desk import Desk, Model
from torch_autokernel.propose.llm.receipts import Receipts
from torch_autokernel.propose.llm.scripted import Scripted
from torch_autokernel.propose.schedule import ScheduleProposer
from torch_autokernel.search.hunt import Result
from torch_autokernel.search.loop import Searcher


def scaled_softmax(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """x: [M, N]; scale: [N]."""
    return torch.softmax(x * scale, -1)


def author(folder: Path) -> LlmProposer:
    """The configured model, or the stand-in; the conversation goes to a file in the folder."""
    options = config.resolve()
    if options.llm_model:
        return LlmProposer.configured(options, folder)
    return LlmProposer(Desk([Model("scripted", Scripted(answer))], Receipts(folder / CONVERSATION)))


def hunt(region: Region, proposers: Sequence[Any], folder: Path, budget: Budget) -> Result:
    """The search for one region."""
    search = Searcher(points.archs.get("cpu")().probe(), Config(), folder=folder, proposers=proposers)
    try:
        (result,) = search.search([region], budget)
        return result
    finally:
        search.close()


def tell(result: Result, folder: Path, whole: bool) -> None:
    """What was asked and answered, what became of it, and what it cost."""
    fates = {a.candidate.source.text: fate(a) for a in result.attempts}
    for number, line in enumerate(Receipts(folder / CONVERSATION).lines(), 1):
        asked, said = line["request"]["messages"][-1]["text"], line["reply"]["text"]
        if whole:
            print(f"\n======== {number}: the {line['role']} is asked\n{asked}\n-------- and answers\n{said}")
        kernel = next((f for text, f in fates.items() if text.strip() and text.strip() in said), "")
        print(f"{number:3} {line['role']:10} {said.strip().splitlines()[0][:48] if said.strip() else '(nothing)':48} {kernel}")


def fate(attempt: Any) -> str:
    """What became of a candidate, in a few words."""
    if not attempt.artifact.ok:
        return f"refused: {attempt.artifact.log.strip().splitlines()[-1][:60]}"
    verdict = attempt.verdict
    if verdict is None:
        rough = attempt.artifact.facts.get("rough_ns")
        return f"not judged: {rough / 1e3:.0f} us is not the fastest" if rough else "not judged: the budget had ended"
    if not verdict.accepted:
        return f"rejected: {verdict.why[:60]}"
    return f"accepted, {verdict.timing.speedup:.2f}x of {verdict.timing.baseline}" if verdict.timing else "accepted"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--max-seconds", type=float, default=60.0)
    parser.add_argument("--max-tokens", type=int, default=200_000)
    parser.add_argument("--folder", help="keep the conversation and the journal there")
    parser.add_argument("--whole", action="store_true", help="print the questions and answers in full")
    options = parser.parse_args()
    region = region_of(scaled_softmax, (torch.randn(512, 2048), torch.rand(2048)))
    bill = Bill()
    with tempfile.TemporaryDirectory() as temporary, events.subscribed(bill):
        folder = Path(options.folder or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result = hunt(region, [ScheduleProposer(), author(folder)], folder, Budget(options.max_seconds, options.max_tokens))
        tell(result, folder, options.whole)
    print(f"\n{result.reason}\n{bill.table()}")


if __name__ == "__main__":
    main()
