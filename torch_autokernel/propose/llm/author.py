"""The proposer `llm`: a team of roles behind one or several models. It emits text and data, runs nothing, judges nothing."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from urllib.parse import urlsplit

from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import ConfigError
from torch_autokernel.core.protocols import Language, Purse
from torch_autokernel.core.types import Arch, Assignment, Attempt, Candidate, Case, Region, Source
from torch_autokernel.propose.llm import chat, messages, parse, roles
from torch_autokernel.propose.llm.client import Client, Limits, Server
from torch_autokernel.propose.llm.desk import Desk, Loop, Model
from torch_autokernel.propose.llm.prices import Prices
from torch_autokernel.propose.llm.receipts import Receipts
from torch_autokernel.propose.llm.talk import Reply, Request

log = logging.getLogger(__name__)

KERNEL_TOKENS = 8000  # of one answer with a kernel; a model that reasons needs more
JSON_TOKENS = 1200  # of one answer with data
ENTRIES = {"null": "reference"}
CONVERSATION = "conversation.jsonl"


class LlmProposer:
    """Kernels, cases and opinions by language models. `desk` is where questions are asked; `reviews` says whether verifiers
    read candidates before they run (three questions a candidate)."""

    name = "llm"

    def __init__(
        self, desk: Desk | None = None, *, reason: str = "", reviews: bool = False, kernel_tokens: int = KERNEL_TOKENS,
        json_tokens: int = JSON_TOKENS,
    ) -> None:  # fmt: skip
        self._desk = desk
        self._reason = reason or ("" if desk else "no LLM is configured (TORCH_AUTOKERNEL_LLM_MODEL)")
        self._reviews = reviews
        self._kernel_tokens, self._json_tokens = kernel_tokens, json_tokens
        self._loop = Loop()

    @classmethod
    def configured(cls, config: Config, folder: Path) -> LlmProposer:
        """The proposer that the configuration names; the conversation is kept in `folder`. Contacts nobody."""
        if not config.llm_model:
            return cls()
        if config.offline:
            return cls(reason="`offline` is set")
        desk = Desk(ensemble(config), Receipts(folder / CONVERSATION), _prices(config))
        return cls(desk, reviews=config.llm_reviews, kernel_tokens=config.llm_answer_tokens)

    # ------------------------------------------------------------------ as a proposer among others
    def refuses(self, region: Region, arch: Arch) -> str | None:
        return self._reason or None

    def propose(self, region: Region, arch: Arch, parents: Sequence[Attempt], n: int) -> list[Candidate]:
        """Nothing: it is asked through `begin`, beside the search's own work."""
        return []

    # ------------------------------------------------------------------ as an author
    def begin(
        self, region: Region, arch: Arch, language: Language, assignments: Sequence[Assignment], purse: Purse
    ) -> Future[list[Candidate]]:
        return self._loop.start(self._author_all(region, arch, language, list(assignments), purse))

    def suspect(
        self, region: Region, arch: Arch, language: Language, distributions: Sequence[str], purse: Purse
    ) -> Future[list[Case]]:
        return self._loop.start(self._suspect(region, arch, language, list(distributions), purse))

    def review(
        self, region: Region, arch: Arch, language: Language, candidates: Sequence[Candidate], purse: Purse
    ) -> Future[list[dict[str, float]]]:
        return self._loop.start(self._review_all(region, arch, language, list(candidates), purse))

    def close(self) -> None:
        """End what is under way, the connections too."""
        models = self._desk.models if self._desk else []
        clients = {id(m.llm): m.llm for m in models if isinstance(m.llm, Client)}
        self._loop.close([c.close for c in clients.values()])

    # ------------------------------------------------------------------ roles
    async def _author_all(
        self, region: Region, arch: Arch, language: Language, assignments: list[Assignment], purse: Purse
    ) -> list[Candidate]:
        prototype = language.prototype(region.signature)
        work = [self._author(region, arch, language.name, prototype, a, purse) for a in assignments]
        found = await asyncio.gather(*work)
        return [c for c in found if c is not None]

    async def _author(
        self, region: Region, arch: Arch, language: str, prototype: str, assignment: Assignment, purse: Purse
    ) -> Candidate | None:
        """The candidate; in the language `none` where the answer holds no kernel; None where the question was not asked."""
        desk = self._the_desk()
        rng = random.Random(f"{assignment.sample} {region.signature.digest}")
        model, temperature = desk.choose(rng), rng.choice(roles.TEMPERATURES)
        talk = roles.author(region, arch, language, prototype, assignment)
        request = Request(model.name, talk, self._kernel_tokens, temperature, seed=_seed(rng), sample=assignment.sample)
        role = roles.role_of(assignment)
        reply = await desk.ask(model, request, purse, role, region.signature.digest)
        cost = desk.expense(model, reply, role, region.signature.digest).cost
        if not reply.requests:
            return None
        parents = tuple(p.candidate.id for p in assignment.parents)
        source = _source(reply, language, assignment)
        return Candidate(region.signature.digest, source, f"{self.name}:{model.name}", parents, cost)

    async def _suspect(
        self, region: Region, arch: Arch, language: Language, distributions: list[str], purse: Purse
    ) -> list[Case]:
        desk = self._the_desk()
        rng = random.Random(f"tester {region.signature.digest}")
        model = desk.choose(rng)
        talk = roles.tester(region, arch, language.name, language.prototype(region.signature), distributions)
        request = Request(model.name, talk, self._json_tokens, 0.6, parse.CASES_SCHEMA, seed=_seed(rng))
        reply = await desk.ask(model, request, purse, "tester", region.signature.digest)
        found = parse.cases(reply.text, region, distributions, rng.getrandbits(60)) if reply.ok else []
        if isinstance(found, parse.Unreadable):
            log.info("the tester's answer is not used: %s", found.reason)
            return []
        return found

    async def _review_all(
        self, region: Region, arch: Arch, language: Language, candidates: list[Candidate], purse: Purse
    ) -> list[dict[str, float]]:
        if not self._reviews:
            return [{} for _ in candidates]
        prototype = language.prototype(region.signature)
        work = [self._review(n, region, arch, language.name, prototype, c, purse) for c in candidates for n in roles.VERIFIERS]
        found = await asyncio.gather(*work)
        step = len(roles.VERIFIERS)
        rows = [found[i : i + step] for i in range(0, len(found), step)]
        return [{n: p for n, p in zip(roles.VERIFIERS, row, strict=True) if p is not None} for row in rows]

    async def _review(
        self, name: str, region: Region, arch: Arch, language: str, prototype: str, candidate: Candidate, purse: Purse
    ) -> float | None:
        desk = self._the_desk()
        rng = random.Random(f"{name} {candidate.id}")
        model = desk.choose(rng)
        talk = roles.verifier(name, region, arch, language, prototype, candidate)
        request = Request(model.name, talk, self._json_tokens, 0.0, parse.OPINION_SCHEMA, seed=_seed(rng))
        reply = await desk.ask(model, request, purse, f"verifier {name}", region.signature.digest)
        found = parse.opinion(reply.text) if reply.ok else parse.Unreadable(reply.problem)
        if isinstance(found, parse.Unreadable):
            log.info("the %s verifier's answer is not used: %s", name, found.reason)
            return None
        log.debug("the %s verifier gives %s %.2f: %s", name, candidate.id[:12], *found)
        return found[0]

    def _the_desk(self) -> Desk:
        if self._desk is None:
            raise ConfigError(self._reason)
        return self._desk


def _seed(rng: random.Random) -> int:
    return rng.getrandbits(31)


def _source(reply: Reply, language: str, assignment: Assignment) -> Source:
    """The kernel of an answer; what is none keeps its text (cut) and says why."""
    found = parse.kernel(reply.text, language) if reply.ok else parse.Unreadable(reply.problem)
    note = {"kind": assignment.kind, "sample": assignment.sample}
    if isinstance(found, parse.Unreadable):
        return Source("none", reply.text[:4000], schedule=note | {"problem": found.reason})
    return Source(language, found.text, ENTRIES.get(language, "kernel"), schedule={"strategy": found.strategy})


def ensemble(config: Config) -> list[Model]:
    """The models of `llm_model`: `name`, or `name=weight, name=weight`, all on one server. `anthropic:` or `openai:` before a
    name chooses the dialect; otherwise Anthropic's own host decides. Raises ConfigError for what is not of this form."""
    clients: dict[str, Client] = {}
    out = []
    for part in filter(None, (p.strip() for p in config.llm_model.split(","))):
        name, weight = _weighted(part)
        dialect = next((d for d in (chat.NAME, messages.NAME) if name.startswith(f"{d}:")), "")
        name = name.removeprefix(f"{dialect}:") if dialect else name
        server = _server(config, dialect)
        client = clients.setdefault(server.dialect, Client(server, Limits()))
        out.append(Model(name, client, weight, f"{server.dialect} {server.base_url}"))
    if not out:
        raise ConfigError(f"llm_model={config.llm_model!r} names no model")
    return out


def _weighted(part: str) -> tuple[str, float]:
    name, eq, weight = part.rpartition("=")
    if not eq:
        return part, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6 or not name.strip():
        raise ConfigError(f"llm_model holds {part!r}", hint="write `name`, or `name=3, other=1` with weights above 0")
    return name.strip(), value


def _server(config: Config, dialect: str) -> Server:
    base = config.llm_base_url
    host = urlsplit(base).hostname or ""
    dialect = dialect or (messages.NAME if host.endswith("anthropic.com") else chat.NAME)
    default = messages.DEFAULT_BASE if dialect == messages.NAME else chat.DEFAULT_BASE
    return Server(base or default, config.llm_api_key, dialect)


def _prices(config: Config) -> Prices:
    return Prices.read(Path(config.llm_prices)) if config.llm_prices else Prices()
