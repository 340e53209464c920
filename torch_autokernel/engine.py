"""The main path: regions in, decisions out. A hit imports neither `search` nor `propose`."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from torch_autokernel.core import deadline, events, points
from torch_autokernel.core.config import Config
from torch_autokernel.core.errors import AutoKernelError, ConfigError, ToolchainError
from torch_autokernel.core.types import Arch, Budget, CacheEntry, CacheKey, Candidate, Region, Source, Trust
from torch_autokernel.store import Store, refusals

log = logging.getLogger(__name__)

DIRECT = "+direct"  # an ABI's ending: the kernel was timed without an operator around it


@dataclass(frozen=True)
class Decision:
    """What was decided for a region. `outcome`: hit, generated, refused, miss or error; `reason` in one sentence."""

    region: Region
    outcome: str
    reason: str
    entry: CacheEntry | None = None


class Engine:
    """One architecture and one cache folder. `Engine.current` keeps one for each pair."""

    _live: ClassVar[dict[tuple[str, str], Engine]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def current(cls, config: Config) -> Engine:
        key = (str(config.cache_path), config.arch)
        with cls._lock:
            if key not in cls._live:
                cls._live[key] = cls(config)
            return cls._live[key]

    def __init__(self, config: Config) -> None:
        self.arch = find_arch(config.arch)
        self.language = points.languages.get("null" if self.arch.key == "null" else "cpp")()
        self.store = Store(config.cache_path)
        self._abi: str | None = None

    @property
    def abi(self) -> str:
        """The toolchain's fingerprint; raises ToolchainError where there is no toolchain."""
        if self._abi is None:
            self._abi = self.language.fingerprint(self.arch)
        return self._abi

    @property
    def timed(self) -> bool:
        """Whether kernels are kept for their speed (those of the null architecture are kept for being right)."""
        return self.arch.key != "null"

    @property
    def obstacle(self) -> str:
        """Why no kernel can be made or kept here; empty where nothing stands in the way."""
        if reason := self.language.missing(self.arch):
            return str(reason)
        return f"the cache cannot be written: {self.store.problem}" if self.store.problem else ""

    def key(self, region: Region) -> CacheKey:
        """A kernel for direct calls need not pay within a graph, so it has a key of its own."""
        return CacheKey(region.signature.digest, self.arch.key, self.abi + (DIRECT if region.direct else ""))

    def load(self, entry: CacheEntry) -> Any:
        """A callable over tensors; raises AutoKernelError where the artifact is not what the entry says."""
        self.store.touch(entry)
        return self.language.load(entry.artifact, entry.signature)

    def entries(self) -> list[CacheEntry]:
        return self.store.entries(self.arch.key, self.abi)

    def resolve(self, regions: Sequence[Region], config: Config) -> list[Decision]:
        """A decision for each region, in order. Equal regions are decided once; misses are searched as `on_miss` says."""
        decided: dict[str, Decision] = {}
        misses: dict[str, Region] = {}
        for region in regions:
            ident = identity(region)
            if ident not in decided:
                decided[ident] = self._look_up(region, config)
                if decided[ident].outcome == "miss" and config.on_miss != "fallback":
                    misses[ident] = region
        if misses and config.on_miss == "generate":
            decided.update((identity(d.region), d) for d in self._generate(list(misses.values()), config))
        out = [replace(decided[identity(r)], region=r) for r in regions]
        for decision in out:
            events.emit(f"region.{decision.outcome}", reason=decision.reason, signature=decision.region.signature.digest)
            log.info("region %s: %s, %s", decision.region.signature.digest[:12], decision.outcome, decision.reason)
        return out

    def _look_up(self, region: Region, config: Config) -> Decision:
        found = self.store.lookup(self.key(region), region.sizes)
        if found.entry is None and region.direct:  # what pays within a graph pays all the more without one
            inside = self.store.lookup(self.key(replace(region, phase="inference")), region.sizes)
            found = inside if inside.entry is not None else found
        if found.entry is not None:
            timing = found.entry.verdict.timing
            speed = f"{timing.speedup:.2f}x of {timing.baseline}" if timing else "not timed"
            return Decision(region, "hit", f"from the cache, {speed} when judged", found.entry)
        kept = found.refusals
        if not region.direct and not any(refusals.holds(r, config) for r in kept):
            # nor does what does not pay without a graph pay within one
            kept = self.store.lookup(self.key(replace(region, phase="direct")), region.sizes).refusals
        for refusal in kept:
            if refusals.holds(refusal, config):
                return Decision(region, "refused", refusal.reason)
        return Decision(region, "miss", "; ".join(found.reasons) or "not in the cache")

    def _generate(self, regions: list[Region], config: Config) -> Iterable[Decision]:
        """Search for the regions within the budget, and keep what was found, or that nothing was."""
        if self.obstacle:
            return [Decision(r, "miss", self.obstacle) for r in regions]
        from torch_autokernel.search.loop import Searcher  # imported here: a warm cache never loads the search

        money = None if math.isinf(config.max_money) else config.max_money
        searcher = Searcher(self.arch, config, folder=self.work_folder(), language=self.language, library=self.entries)
        try:
            with deadline.from_purse(config.max_seconds) as seconds:
                budget = Budget(seconds, config.max_tokens, money)
                return [self._keep(result, config) for result in searcher.search(regions, budget)]
        finally:
            searcher.close()

    def submit(self, region: Region, source: Source, by: str, config: Config) -> tuple[Decision, Any]:
        """Judge a kernel that somebody wrote, time it, and keep it where it is faster: the same way that every kernel takes.
        The decision, and the search's result with all findings."""
        if reason := self.language.missing(self.arch):
            raise ToolchainError(f"nothing can be compiled: {reason}", hint="run `autokernel doctor`")
        from torch_autokernel.propose.given import Given  # imported here: a warm cache never loads the search
        from torch_autokernel.search.loop import Searcher

        author = Given(Candidate(region.signature.digest, source, by))
        searcher = Searcher(self.arch, config, folder=self.work_folder(), language=self.language, proposers=[author])
        try:
            (result,) = searcher.search([region], Budget(config.max_seconds))
            kept = self._keep(result, config) if result.best else Decision(region, "refused", result.reason)
            return kept, result
        finally:
            searcher.close()

    def work_folder(self) -> Path:
        folder = self.store.root / "work"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def _keep(self, result: Any, config: Config) -> Decision:
        region, best = result.region, result.best
        if best is None:
            key, reason = self.key(region), result.reason
            if result.final:
                self.store.refuse(refusals.final(key, reason, region.sizes, config))
            elif refusal := refusals.cut_short(key, reason, result.ranges, result.cost.seconds, config):
                self.store.refuse(refusal)
            return Decision(region, "refused" if result.final else "miss", result.reason)
        entry = CacheEntry(self.key(region), region.signature, best.candidate, best.artifact, best.verdict,
                           Trust.VERIFIED_HERE, region.reference, result.ranges, time.time())  # fmt: skip
        suffix = self.language.suffix
        files: dict[str, Path | bytes] = {
            f"source{suffix}": best.candidate.source.text.encode(),
            "artifact": Path(best.artifact.path),
            "vectors.safetensors": result.vectors,
        }
        try:
            entry = self.store.put(entry, files)
        except (AutoKernelError, OSError) as error:
            return Decision(region, "miss", f"a kernel was found but could not be stored: {error}")
        return Decision(region, "generated", result.reason, entry)


def identity(region: Region) -> str:
    """What makes two regions one and the same question."""
    return f"{region.signature.digest} {sorted(region.sizes.items())} {region.direct}"


def find_arch(wanted: str) -> Arch:
    """The architecture by its key or prefix, or this machine's CPU; raises ConfigError for one that is not here."""
    name = "null" if wanted == "null" else "cpu"
    arch: Arch | None = points.archs.get(name)().probe()
    if arch is None:
        raise ToolchainError("no supported device was found", hint="run `autokernel doctor`")
    if wanted and wanted != arch.key:
        raise ConfigError(f"architecture {wanted!r} is not on this machine, which is {arch.key!r}",
                          hint="leave `arch` empty to use this machine")  # fmt: skip
    return arch
