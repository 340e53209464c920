"""Who is asked what: translator, optimiser, tester, verifiers. Each is a page and a way to read the answer."""

from __future__ import annotations

from collections.abc import Sequence

from torch_autokernel.core.types import Arch, Assignment, Attempt, Candidate, Region, Status
from torch_autokernel.propose.llm import pages, parse
from torch_autokernel.propose.llm.talk import Message

PAGES = {"translate": "translator", "improve": "improve", "combine": "combine", "differ": "differ", "repair": "repair"}
VERIFIERS = ("compile", "memory", "numerics")
MOST_SUMMARY = 1200  # characters of an error's summary
MOST_EXAMPLE = 8000
TEMPERATURES = (0.2, 0.6, 0.9, 1.0)


def role_of(assignment: Assignment) -> str:
    return "translator" if assignment.kind == "translate" else "optimiser"


def author(region: Region, arch: Arch, language: str, prototype: str, assignment: Assignment) -> tuple[Message, ...]:
    """The conversation that asks for one kernel."""
    fence = parse.NAMES.get(language, (language,))[0]
    approach = f"Approach to follow: {assignment.approach}." if assignment.approach else ""
    if assignment.avoid:
        approach += f"\nApproaches that are taken already: {', '.join(assignment.avoid)}."
    parents = "\n\n".join(parent(a, fence) for a in assignment.parents)
    task = pages.fill(PAGES[assignment.kind], approach=approach.strip(), **({"parents": parents} if assignment.parents else {}))
    parts = [pages.region(region, arch, prototype), pages.language(language)]
    if assignment.examples:
        parts.append(examples(assignment.examples, fence))
    if assignment.notes:
        parts.append("Known so far:\n" + "\n".join(f"- {note}" for note in assignment.notes))
    parts += [task, pages.fill("answer_kernel", fence=fence)]
    return Message("system", pages.fill("system")), Message("user", "\n\n".join(parts))


def examples(candidates: Sequence[Candidate], fence: str) -> str:
    blocks = [pages.fenced(c.source.text[:MOST_EXAMPLE], fence) for c in candidates]
    return "Verified kernels of related functions, for style and headers (their prototypes differ):\n\n" + "\n\n".join(blocks)


def parent(attempt: Attempt, fence: str) -> str:
    """A kernel with what is known of it: the verdict, its time, static facts."""
    return pages.fenced(attempt.candidate.source.text, fence) + "\n" + "\n".join(f"- {line}" for line in known(attempt))


def known(attempt: Attempt) -> list[str]:
    """What was found out about an attempt, in a few lines; logs are summarised, not shown."""
    artifact, verdict = attempt.artifact, attempt.verdict
    if artifact is None or not artifact.ok:
        return [f"does not compile: {summary(artifact.log if artifact else '')}"]
    lines = []
    if (ns := artifact.facts.get("rough_ns")) is not None:
        lines.append(f"takes about {ns / 1e3:.1f} us alone")
    if code := artifact.facts.get("code_bytes"):
        lines.append(f"{code} bytes of code")
    if verdict is None:
        return [*lines, "not judged: others were faster"] if lines else ["ran into an error or took too long"]
    if not verdict.accepted:
        return [*lines, f"rejected: {summary(verdict.why)}", *(evidence(attempt))]
    if (t := verdict.timing) is not None:
        lines.append(f"accepted; {t.speedup:.3f}x of {t.baseline} (95% interval {t.low:.3f} to {t.high:.3f})")
        lines += [f"{name} takes {ns / 1e3:.1f} us" for name, ns in t.others.items()]
    else:
        lines.append("accepted")
    return lines


def evidence(attempt: Attempt) -> list[str]:
    assert attempt.verdict is not None
    failed = [f for f in attempt.verdict.findings if f.status is Status.FAIL]
    return [f"{f.check}: {summary(', '.join(f'{k} {v}' for k, v in f.evidence.items()))}" for f in failed[:2] if f.evidence]


def summary(log: str) -> str:
    """The lines of a log that say what is wrong, without the rest."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return "; ".join(dict.fromkeys(errors[:5]))[:MOST_SUMMARY] or "no reason was given"


def tester(region: Region, arch: Arch, language: str, prototype: str, distributions: Sequence[str]) -> tuple[Message, ...]:
    signature = region.signature
    symbols = ", ".join(f"{s} >= {max(1, signature.guards.get(s, 1))}" for s in signature.symbols)
    task = pages.fill("tester", symbols=symbols or "none, all sizes are fixed", largest=str(parse.LARGEST_SIZE),
                      distributions=", ".join(distributions))  # fmt: skip
    text = "\n\n".join([pages.region(region, arch, prototype), task])
    return Message("system", pages.fill("system")), Message("user", text)


def verifier(name: str, region: Region, arch: Arch, language: str, prototype: str, candidate: Candidate) -> tuple[Message, ...]:
    fence = parse.NAMES.get(language, (language,))[0]
    task = pages.fill("opinion", kernel=pages.fenced(candidate.source.text, fence))
    parts = [pages.region(region, arch, prototype), pages.language(language), pages.fill(f"verify_{name}"), task]
    return Message("system", pages.fill("system")), Message("user", "\n\n".join(parts))
