"""Where questions are asked: the purse first, the record of earlier answers, then a model; every answer is written down."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torch_autokernel.core import events
from torch_autokernel.core.protocols import LLM, Purse
from torch_autokernel.core.types import Cost, Expense
from torch_autokernel.propose.llm.prices import Prices
from torch_autokernel.propose.llm.receipts import Receipts
from torch_autokernel.propose.llm.talk import CANCELLED, Reply, Request, Usage

log = logging.getLogger(__name__)

T = TypeVar("T")
CAUTIOUS_BYTES_PER_TOKEN = 2.0  # a prompt is reckoned at no more than this when its tokens are set aside
PAUSE_SECONDS = 0.02  # before the purse is asked again
OVERHEAD_TOKENS = 64  # of a chat template


@dataclass(frozen=True)
class Model:
    """One member of the ensemble. `server` names where it is asked, without secrets."""

    name: str
    llm: LLM
    weight: float = 1.0
    server: str = ""


class Loop:
    """An event loop in a thread of its own, started on first use."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="autokernel-llm", daemon=True)
                self._thread.start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self, last: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()) -> None:
        """End what is under way, do what is `last` to be done, and end the thread."""
        with self._lock:
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
        for work in last:
            asyncio.run_coroutine_threadsafe(work(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_all() -> None:
    tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class Desk:
    """Asks models. Never raises for what a server does, and never asks where the purse says no."""

    def __init__(self, models: Sequence[Model], receipts: Receipts | None = None, prices: Prices | None = None) -> None:
        self.models = list(models)
        self.receipts = receipts or Receipts()
        self.prices = prices or Prices()

    def choose(self, rng: random.Random) -> Model:
        """A model of the ensemble, by weight."""
        return rng.choices(self.models, [m.weight for m in self.models])[0]

    async def ask(self, model: Model, request: Request, purse: Purse, role: str, region: str) -> Reply:
        """The answer; one with a problem and without requests where the budget did not allow the question."""
        if (known := self.receipts.find(model.server, request)) is not None:
            self._settle(purse, Cost(), model, known, role, region, replayed=True)
            return known
        most = self.most(model, request)
        while reason := purse.reserve(most):
            if not purse.waiting():
                return Reply(problem=f"not asked: {reason}")
            await asyncio.sleep(PAUSE_SECONDS)
        reply: Reply = Reply(problem=CANCELLED)
        try:
            reply = await model.llm.complete(request)
            if (reply.paid or reply.ok) and reply.problem != CANCELLED:
                self.receipts.keep(model.server, request, reply, role=role, region=region)
        finally:
            self._settle(purse, most, model, reply, role, region)
        return reply

    def most(self, model: Model, request: Request) -> Cost:
        """The most that a question can cost, retries before any output not counted: they are free."""
        prompt = math.ceil(request.prompt_bytes / CAUTIOUS_BYTES_PER_TOKEN) + OVERHEAD_TOKENS * len(request.messages)
        usage = Usage(prompt, request.max_tokens)
        return Cost(0.0, prompt + request.max_tokens, self.prices.money(model.name, usage))

    def _settle(
        self, purse: Purse, most: Cost, model: Model, reply: Reply, role: str, region: str, replayed: bool = False
    ) -> None:
        expense = self.expense(model, reply, role, region)
        if replayed:
            expense = replace(expense, requests=0, replayed=1)
        purse.settle(most, expense)
        facts = {"role": role, "model": model.name, "problem": reply.problem, "replayed": replayed}
        events.emit(
            "llm.call", signature=region, tokens=expense.cost.tokens, money=expense.money, seconds=reply.seconds, **facts
        )

    def expense(self, model: Model, reply: Reply, role: str, region: str) -> Expense:
        usage, made = reply.usage, int(reply.requests > 0)
        failed, money = made * int(not reply.ok), self.prices.money(model.name, usage)
        return Expense(role, model.name, region, made, reply.requests, 0, failed, usage.prompt, usage.completion,
                       usage.estimated, reply.seconds, money)  # fmt: skip
