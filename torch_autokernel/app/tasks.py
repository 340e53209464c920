"""Tasks for authors outside: a folder to work in, and the way back through the judge into the cache.

A folder holds what an author needs to know. What is judged does not come from it, but from the copy that lies in the cache
folder: whoever edits the folder's reference changes nothing but his own notes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch_autokernel.app.commands.verify import told
from torch_autokernel.app.problems import Problem
from torch_autokernel.app.report import Report
from torch_autokernel.capture.api import explain
from torch_autokernel.capture.record import recording
from torch_autokernel.core.config import config
from torch_autokernel.core.errors import UsageError
from torch_autokernel.core.types import Attempt, CacheEntry, Region, Source, digest
from torch_autokernel.engine import Decision, Engine, identity
from torch_autokernel.propose.llm import pages
from torch_autokernel.verify.floor import compulsory_bytes
from torch_autokernel.verify.judge import Judge

TASK = "task.json"
README = """# A kernel to write

Write `{kernel}`: {language}, exactly the prototype in `prototype.txt`. It computes what `reference.py` computes, for all
sizes, and counts if it is right and faster than eager and Inductor at the sizes in `{task}`.

    autokernel task submit {folder} --check    judge it, with the reason if it is wrong
    autokernel task submit {folder}            judge it, time it, and keep it in the cache where it is faster

{best}What is judged is the task as it was made, whatever is edited here.

{page}

Machine: {machine}
"""


@dataclass(frozen=True)
class Task:
    """A region that waits for a kernel. `id` names the copy in the cache folder."""

    id: str
    name: str
    region: Region


def regions(problem: Problem, backward: bool) -> list[Decision]:
    """What the plugin finds in a problem, the greatest region first, each once."""
    with recording() as records:
        explain(problem.model, *problem.inputs, backward=backward, **problem.kwargs)
    found = {identity(d.region): d for r in records for d in r.decisions if d.outcome != "error"}
    return sorted(found.values(), key=lambda d: compulsory_bytes(d.region), reverse=True)


def engine() -> Engine:
    return Engine.current(config.resolve())


def new(decision: Decision, name: str, folder: Path) -> Report:
    """Write the folder; an old one keeps its kernel and gets the rest anew."""
    here, region = engine(), decision.region
    task = Task(digest(region.to_json())[:16], name, region)
    suffix, prototype = here.language.suffix, here.language.prototype(region.signature)
    best = _best(here, region)
    _keep(here, task)
    told_best = f"`best{suffix}` is the fastest kernel so far: {_speed(best)}.\n\n" if best else ""
    facts = {"task": task.id, "name": name, "arch": here.arch.to_json(), "language": here.language.name,
             "region": region.to_json(), "bytes": compulsory_bytes(region)}  # fmt: skip
    readme = README.format(
        kernel=f"kernel{suffix}", language=here.language.name, task=TASK, folder=folder, best=told_best,
        page=pages.language(here.language.name), machine=pages.machine(here.arch),
    )  # fmt: skip
    files = {
        "reference.py": region.reference,
        "prototype.txt": prototype + "\n",
        TASK: json.dumps(facts, indent=2) + "\n",
        "README.md": readme,
    }
    if best:
        files[f"best{suffix}"] = best.candidate.source.text
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", hint="name another folder") from error
    data = {"task": task.id, "folder": str(folder), "files": sorted(files), "write": f"kernel{suffix}",
            "sizes": dict(region.sizes), "prototype": prototype, "reference": region.reference,
            "best": _speed(best) if best else None}  # fmt: skip
    return Report(True, data, f"{folder}: write kernel{suffix}, then `autokernel task submit {folder}`\n{prototype}")


def _speed(entry: CacheEntry) -> str:
    timing = entry.verdict.timing
    return f"{timing.speedup:.2f}x of {timing.baseline}" if timing else "not timed"


def _best(here: Engine, region: Region) -> CacheEntry | None:
    return here.store.lookup(here.key(region), region.sizes).entry


def _shelf(here: Engine) -> Path:
    return here.work_folder() / "tasks"


def _keep(here: Engine, task: Task) -> None:
    shelf = _shelf(here)
    shelf.mkdir(exist_ok=True, mode=0o700)
    (shelf / f"{task.id}.json").write_text(json.dumps({"name": task.name, "region": task.region.to_json()}))


def read(folder: Path) -> Task:
    """The task of a folder, from the cache's copy; raises UsageError where there is none."""
    try:
        ident = json.loads((folder / TASK).read_text())["task"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder} is not a task's folder: {TASK} cannot be read",
                         hint="make one with `autokernel task new`") from error  # fmt: skip
    path = _shelf(engine()) / f"{ident}.json"
    if not isinstance(ident, str) or not re.fullmatch(r"[0-9a-f]{16}", ident) or not path.is_file():
        raise UsageError(f"the task {ident!r} is not known in this cache",
                         hint="make it again with `autokernel task new`, into the same folder")  # fmt: skip
    data = json.loads(path.read_text())
    return Task(ident, data["name"], Region.from_json(data["region"]))


def source(folder: Path) -> Source:
    """The author's kernel."""
    language = engine().language
    path = folder / f"kernel{language.suffix}"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"no kernel to judge: {path} cannot be read", hint=f"write the kernel to {path}") from error
    return Source(language.name, text, "reference" if language.name == "null" else "kernel")


def check(task: Task, kernel: Source) -> Report:
    """The verdict alone; nothing is timed or kept."""
    from torch_autokernel.core.types import Candidate

    here = engine()
    candidate = Candidate(task.region.signature.digest, kernel, "user")
    folder = here.work_folder() / "checks"
    (artifact,) = here.language.compile([candidate], task.region.signature, here.arch, folder)
    judge = Judge(here.arch)
    try:
        verdict = judge.judge(task.region, artifact)
    finally:
        judge.close()
        Path(artifact.path).unlink(missing_ok=True) if artifact.path else None
    data = {"task": task.id, "accepted": verdict.accepted, "why": verdict.why, "verdict": verdict.to_json()}
    return Report(verdict.accepted, data, told(verdict, task.name))


def submit(task: Task, kernel: Source) -> Report:
    """Judged, timed and, where it is faster than eager, Inductor and what the cache holds, kept."""
    here = engine()
    before = _best(here, task.region)
    decision, result = here.submit(task.region, kernel, "user", config.resolve())
    attempt: Attempt | None = result.attempts[0] if result.attempts else None
    verdict = attempt.verdict if attempt else None
    kept = decision.outcome == "generated"
    data: dict[str, Any] = {"task": task.id, "kept": kept, "reason": decision.reason}
    data["best_before"] = _speed(before) if before else None
    lines = [f"{task.name}: {'kept' if kept else 'NOT kept'}: {decision.reason}"]
    if attempt and attempt.artifact and not attempt.artifact.ok:
        data["log"] = attempt.artifact.log
        lines.append(attempt.artifact.log)
    if verdict is not None:
        data |= {"accepted": verdict.accepted, "why": verdict.why, "verdict": verdict.to_json()}
        lines.append(told(verdict, task.name))
    return Report(kept, data, "\n".join(lines))
