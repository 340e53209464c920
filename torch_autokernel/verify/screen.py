"""Rough speeds of many candidates in little time: for ranking, never for a verdict."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from torch_autokernel.core.types import Artifact, Region
from torch_autokernel.machine.worker import Pool, Session
from torch_autokernel.machine.worker_memory import Job
from torch_autokernel.verify.bank import Inputs
from torch_autokernel.verify.runner import WorkerRunner

AT_ONCE = 6  # workers, each with its own buffers
ROUNDS = 5
FINALISTS, NEAR = 4, 1.6  # so many at most, and no slower than so many times the fastest, are measured once more, side by side
LATE = 3  # unless the first measurements took so many times what they should
_MOST_CALLS = 1000
_FILL = b"\x3c"


def screen(pool: Pool, region: Region, artifacts: Sequence[Artifact], prepared: Inputs, seconds: float) -> list[float | None]:
    """Nanoseconds a call at the prepared case's sizes, None for those that do not come back; takes about `seconds`.

    A few candidates at a time, in turns, so that a disturbance hits all of them; the least of the rounds counts. Those in front
    of several groups are measured once more together: a disturbance as long as one turn would have decided. The time is
    the worker's own, a claim: a candidate that lies gets no further than the timed comparison.
    """
    out: list[float | None] = []
    began = time.perf_counter()
    for start in range(0, len(artifacts), AT_ONCE):
        group = artifacts[start : start + AT_ONCE]
        out += _group(pool, region, group, prepared, seconds * len(group) / len(artifacts))
    ran = sorted((ns, i) for i, ns in enumerate(out) if ns is not None)
    finalists = [i for ns, i in ran[:FINALISTS] if ns <= NEAR * ran[0][0]]
    if len(finalists) > 1 and len(artifacts) > AT_ONCE and time.perf_counter() - began <= LATE * seconds:
        again = _group(pool, region, [artifacts[i] for i in finalists], prepared, seconds / 2)
        for i, ns in zip(finalists, again, strict=True):
            out[i] = min((t for t in (out[i], ns) if t is not None), default=None)
    return out


def at_large(
    pool: Pool, region: Region, artifacts: Sequence[Artifact], speeds: Sequence[float | None], large: Inputs, seconds: float
) -> list[float | None]:
    """The speeds, those in front of them brought into the order that they have at larger sizes: there the caches decide.

    One at a time, for the buffers are large, the fastest first and then as they were proposed; once more while there is time.
    None for those that do not come back; where that holds for all, it says nothing of them, and the order stays.
    """
    ran = sorted((ns, i) for i, ns in enumerate(speeds) if ns is not None)
    near = [i for ns, i in ran if ns <= NEAR * ran[0][0]]
    finalists = [*near[:1], *sorted(near[1:])][:AT_ONCE]
    began, best, lost = time.perf_counter(), dict[int, float](), set[int]()
    for i in finalists * 2 if len(finalists) > 1 else []:
        if time.perf_counter() - began > LATE * seconds:
            break
        if i in lost:
            continue
        if (ns := _alone(pool, region, artifacts[i], large)) is None:
            lost.add(i)
        else:
            best[i] = min(ns, best.get(i, ns))
    out, there = list(speeds), best.keys() - lost
    for i in lost if there else ():
        out[i] = None
    for i in there:  # in the others' unit, and not behind those that were not in front
        out[i] = ran[0][0] * min(NEAR, best[i] / min(best.values()))
    return out


def _alone(pool: Pool, region: Region, artifact: Artifact, large: Inputs) -> float | None:
    """Nanoseconds of one of three calls. Buffers are filled once: with large ones that takes longer than the calls."""
    if (session := _open(pool, artifact)) is None:
        return None
    try:
        patterns = [_FILL] * (len(region.signature.output_specs) + 1)
        outcome = session.bench((WorkerRunner(pool, region, artifact, 0).job(large, patterns),), calls=1, samples=3, warmup=1)
        return max(1.0, statistics.median(outcome.inside_ns)) if outcome.ok else None
    finally:
        session.close()


def _group(
    pool: Pool, region: Region, group: Sequence[Artifact], prepared: Inputs, seconds: float
) -> list[float | None]:
    patterns = [_FILL] * (len(region.signature.output_specs) + 1)
    jobs = [WorkerRunner(pool, region, artifact, 0).job(prepared, patterns) for artifact in group]
    sessions: list[Session | None] = [None] * len(group)
    best: list[float | None] = [None] * len(group)
    start, share = time.perf_counter(), seconds / max(1, len(group) * ROUNDS)
    try:
        for turn in range(ROUNDS):
            for i, artifact in enumerate(group):
                if turn == 0:
                    sessions[i] = _open(pool, artifact)
                best[i] = _measure(sessions[i], jobs[i], best[i], share, first=turn == 0)
            if time.perf_counter() - start > seconds * (turn + 1) / ROUNDS * 2:
                break
    finally:
        for session in sessions:
            if session is not None:
                session.close()
    return best


def _open(pool: Pool, artifact: Artifact) -> Session | None:
    if not artifact.ok:
        return None
    session = pool.open(artifact.path, artifact.entry)
    if session.loaded is not None and session.loaded.ok:
        return session
    session.close()
    return None


def _measure(session: Session | None, job: Job, best: float | None, share: float, first: bool) -> float | None:
    """The better of `best` and a new measurement of about `share` seconds; None once the worker has died."""
    if session is None or not session.alive or (best is None and not first):
        return None
    if best is None:
        outcome = session.bench((job,), calls=1, warmup=1)
        if not outcome.ok:
            return None
        best = float(max(1, outcome.inside_ns[0]))
    calls = max(1, min(_MOST_CALLS, int(share * 1e9 / best / 3)))
    outcome = session.bench((job,), calls=calls, samples=3)
    return min(best, statistics.median(outcome.inside_ns) / calls) if outcome.ok else None
