"""`autokernel cache`: ls, show, rm, gc, check. Needs neither torch nor a compiler."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from torch_autokernel.app.progress import Progress
from torch_autokernel.app.report import Report, duration, size, table
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import CacheEntry, Refusal
from torch_autokernel.store import Store

EXAMPLE = "autokernel cache gc --max-size 500M --max-age 30d"

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_AGES = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=tuple(ACTIONS), help="; ".join(f"{n}: {f.__doc__}" for n, f in ACTIONS.items()))
    parser.add_argument("id", nargs="*", help="the start of an id as `ls` shows it, of a signature or of an operator's name")
    parser.add_argument("--all", action="store_true", help="rm: every entry")
    parser.add_argument(
        "--refusals", action="store_true", help="ls: the refusals too; rm: all refusals, so that they are searched again"
    )
    parser.add_argument("--max-size", metavar="SIZE", help="gc: keep at most this, as in 500M or 2G")
    parser.add_argument("--max-age", metavar="AGE", help="gc: remove what was not used for this long, as in 12h or 30d")
    parser.add_argument("--repair", action="store_true", help="check: remove what is damaged, close what is open to others")


def run(args: argparse.Namespace, progress: Progress) -> Report:
    store = Store(config.resolve().cache_path)
    _refuse_misplaced(args)
    return ACTIONS[args.action](store, args)


def _refuse_misplaced(args: argparse.Namespace) -> None:
    """An option that the action would ignore is an error."""
    belongs = {
        "all": ("rm",),
        "refusals": ("ls", "rm"),
        "max_size": ("gc",),
        "max_age": ("gc",),
        "repair": ("check",),
        "id": ("show", "rm"),
    }
    for name, actions in belongs.items():
        if getattr(args, name) and args.action not in actions:
            shown = f"--{name.replace('_', '-')}" if name != "id" else f"an id ({args.id[0]})"
            raise UsageError(f"cache {args.action} does not take {shown}", hint=f"it belongs to cache {' and '.join(actions)}")


# ------------------------------------------------------------------------------------------- actions
def ls(store: Store, args: argparse.Namespace) -> Report:
    """list the kernels"""
    entries, refusals = store.entries(), store.refusals()
    facts = [_facts(e) for e in entries]
    data: dict[str, Any] = {
        "root": str(store.root),
        "problem": store.read_problem,
        "entries": facts,
        "refusals": [_refusal(r) for r in refusals],
        "bytes": sum(i.bytes for i in store.items()),
    }
    lines = []
    if facts:
        rows = [
            [f["id"][:12], f["arch"], _faster(f), duration(max(0.0, time.time() - f["created"])), size(f["bytes"]), f["what"]]
            for f in facts
        ]
        lines.append(table(["id", "arch", "faster", "age", "size", "what"], rows, right=(2, 3, 4)))
    if args.refusals:
        lines += [f"refused {r.key.signature[:12]}: {r.reason}" for r in refusals]
    lines.append(f"{store.root}: {len(facts)} kernels, {len(refusals)} refusals, {size(data['bytes'])}")
    if store.read_problem:
        lines.append(f"not used: {store.read_problem}")
    return Report(store.read_problem is None, data, "\n".join(lines))


def show(store: Store, args: argparse.Namespace) -> Report:
    """tell everything about one kernel"""
    if len(args.id) != 1:
        raise UsageError(f"cache show needs one id, got {len(args.id)}", hint="`autokernel cache ls` lists them")
    found = _find(store, args.id[0])
    if not found:
        return Report(False, {"found": False}, _no_such(store, args.id[0]))
    if len(found) > 1:
        raise UsageError(f"{args.id[0]!r} is the start of {len(found)}: {', '.join(e.candidate.id[:12] for e in found)}",
                         hint="give more characters")  # fmt: skip
    (entry,) = found
    return Report(
        True, {"found": True, **_facts(entry), "entry": entry.to_json(), "damage": store.damage(entry)}, _shown(store, entry)
    )


def rm(store: Store, args: argparse.Namespace) -> Report:
    """remove kernels"""
    if not (args.id or args.all or args.refusals):
        raise UsageError("cache rm needs an id, --all or --refusals", hint="`autokernel cache ls` lists the ids")
    chosen: dict[str, CacheEntry] = {e.artifact.path: e for e in store.entries()} if args.all else {}
    unknown = []
    for ident in args.id:
        found = _find(store, ident)
        unknown += [] if found else [ident]
        chosen |= {e.artifact.path: e for e in found}
    if unknown:
        return Report(
            False,
            {"removed": [], "unknown": unknown},
            "\n".join([_no_such(store, i) for i in unknown] + ["nothing was removed"]),
        )
    removed = [e.candidate.id for e in chosen.values() if store.remove(e)]
    refusals = store.remove_refusals() if args.refusals else 0
    text = f"removed {len(removed)} kernels" + (f" and {refusals} refusals" if args.refusals else "")
    return Report(True, {"removed": removed, "refusals": refusals}, text)


def gc(store: Store, args: argparse.Namespace) -> Report:
    """remove what was not used for long, or the least recently used above a size"""
    if args.max_size is None and args.max_age is None:
        raise UsageError("cache gc needs --max-size or --max-age", hint="for example --max-size 500M --max-age 30d")
    most = None if args.max_size is None else int(_number(args.max_size, _SIZES, "size", "500M or 2G"))
    removed = store.gc(most, None if args.max_age is None else _number(args.max_age, _AGES, "age", "12h or 30d"))
    freed, left = sum(i.bytes for i in removed), sum(i.bytes for i in store.items())
    data = {"removed": [i.path for i in removed], "freed_bytes": freed, "left_bytes": left}
    return Report(True, data, f"removed {len(removed)} items, {size(freed)}; {size(left)} are left in {store.root}")


def check(store: Store, args: argparse.Namespace) -> Report:
    """read every byte and say what is damaged"""
    problems = store.check(args.repair)
    open_ = [p for p in problems if not p.repaired]
    count = len(store.items())
    data = {"root": str(store.root), "items": count, "problems": [
        {"path": p.path, "kind": p.kind, "reason": p.reason, "repaired": p.repaired} for p in problems]}  # fmt: skip
    lines = [f"{'repaired' if p.repaired else p.kind}: {p.reason}" for p in problems]
    lines.append(
        f"{store.root}: {count} items, {len(problems)} problems"
        + (f", {len(problems) - len(open_)} repaired" if problems else "")
    )
    if open_ and not args.repair:
        lines.append("`autokernel cache check --repair` removes what is damaged; a damaged kernel is never used")
    return Report(not open_, data, "\n".join(lines))


ACTIONS = {"ls": ls, "show": show, "rm": rm, "gc": gc, "check": check}


# ------------------------------------------------------------------------------------------- for a person
def _find(store: Store, ident: str) -> list[CacheEntry]:
    if len(ident) < 4:
        raise UsageError(f"{ident!r} is too short", hint="give at least 4 characters of the id")
    return [e for e in store.entries() if any(name.startswith(ident) for name in (e.candidate.id, e.op_name, e.key.signature))]


def _no_such(store: Store, ident: str) -> str:
    return f"no kernel whose id starts with {ident} in {store.root}; `autokernel cache ls` lists them"


def _facts(entry: CacheEntry) -> dict[str, Any]:
    timing = entry.verdict.timing
    folder = os.path.dirname(entry.artifact.path)
    return {
        "id": entry.candidate.id,
        "op_name": entry.op_name,
        "arch": entry.key.arch,
        "abi": entry.key.abi,
        "signature": entry.key.signature,
        "what": _what([o.target for o in entry.signature.ops]),
        "trust": entry.trust.value,
        "created": entry.created,
        "path": folder,
        "bytes": _bytes(folder),
        "ranges": {k: list(v) for k, v in entry.ranges.items()},
        "speedup": timing.speedup if timing else None,
        "baseline": timing.baseline if timing else "",
    }


def _bytes(folder: str) -> int:
    try:
        return sum(item.stat().st_size for item in os.scandir(folder))
    except OSError:
        return 0


def _what(targets: Sequence[str], most: int = 6) -> str:
    names = [t.split(".")[1] if "." in t else t for t in targets]
    return " ".join(names[:most]) + (f" ... ({len(names)} operations)" if len(names) > most else "")


def _faster(facts: dict[str, Any]) -> str:
    return f"{facts['speedup']:.2f}x" if facts["speedup"] is not None else "-"


def _refusal(refusal: Refusal) -> dict[str, Any]:
    return {"signature": refusal.key.signature, "arch": refusal.key.arch, "reason": refusal.reason, "created": refusal.created}


def _shown(store: Store, entry: CacheEntry) -> str:
    """An entry in full: what it is, how it was judged, its reference, its schedule and its source."""
    timing, source = entry.verdict.timing, entry.candidate.source
    ranges = ", ".join(f"{s} in {low}..{high}" for s, (low, high) in entry.ranges.items()) or "all sizes"
    lines = [
        f"id         {entry.candidate.id}",
        f"operator   {entry.op_name}",
        f"signature  {entry.key.signature}",
        f"arch       {entry.key.arch}, toolchain {entry.key.abi}",
        f"trust      {entry.trust.value}, proposed by {entry.candidate.proposer}",
        f"chosen for {ranges}",
        f"path       {os.path.dirname(entry.artifact.path)}",
    ]
    if damage := store.damage(entry):
        lines.append(f"DAMAGED    {damage}")
    if timing:
        lines.append(
            f"time       {timing.speedup:.2f}x of {timing.baseline} (95% interval {timing.low:.2f} to {timing.high:.2f})"
        )
    lines += ["", "verdict    " + entry.verdict.why]
    lines += [f"  {f.status.value:5} {f.check}: {f.reason}".rstrip(": ") for f in entry.verdict.findings]
    schedule = ", ".join(f"{k}={v}" for k, v in source.schedule.items()) or "none"
    lines += [
        "",
        f"schedule   {schedule}",
        "",
        "reference:",
        entry.reference.rstrip(),
        "",
        f"source ({source.language}):",
        source.text.rstrip(),
    ]
    return "\n".join(lines)


def _number(text: str, units: dict[str, int], what: str, form: str) -> float:
    """A number with a unit; raises UsageError for anything else."""
    cleaned = text.strip().lower().removesuffix("ib").removesuffix("b") if what == "size" else text.strip().lower()
    unit = cleaned[-1:] if cleaned[-1:].isalpha() else ""
    try:
        value = float(cleaned.removesuffix(unit)) * units[unit]
    except (ValueError, KeyError):
        raise UsageError(f"{text!r} is no {what}", hint=f"write it like {form}") from None
    if not 0 <= value < float("inf"):
        raise UsageError(f"{text!r} is no {what}: it must be 0 or more", hint=f"write it like {form}")
    return value
