"""A process locks itself in, layer by layer; each layer that a machine refuses is reported and left out.

`enter(policy)` gives `{layer: "on" or why not}`. Layers: own session, namespaces (user, network, IPC), capabilities,
no_new_privs, Landlock (files, TCP, signals, abstract sockets), resource limits, seccomp, death of the parent. None needs
privileges. Standard library only, and pure ctypes: the zygote imports this without the package.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass

from torch_autokernel.machine.sandbox_calls import ALLOWED, AUDIT_ARCH, FATAL, SPECIAL

LAYERS = ("session", "namespaces", "capabilities", "no_new_privs", "landlock", "limits", "parent_death", "seccomp")
SYSTEM_READ = (
    "/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system/cpu",
    "/dev/null", "/dev/urandom", "/nix/store", "/gnu/store",
)  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


@dataclass(frozen=True)
class Policy:
    """What the process may still do. Paths in `read` and `write` are files or folders; all others are out of reach.
    `memory_bytes` is on top of what the process maps when it enters."""

    read: tuple[str, ...] = SYSTEM_READ
    write: tuple[str, ...] = ()
    memory_bytes: int = 4 << 30
    cpu_seconds: int = 600
    file_bytes: int = 0
    open_files: int = 64
    processes: int = 256
    leave_out: tuple[str, ...] = ()


def enter(policy: Policy, parent: int) -> dict[str, str]:
    """Close every layer behind this process; `parent` is the process whose death must end this one."""
    held = dict.fromkeys(LAYERS, "refused: left out")

    def close(name: str, layer: Callable[[], str]) -> None:
        if name not in policy.leave_out:
            held[name] = layer()

    close("session", _session)
    close("namespaces", _namespaces)
    close("limits", lambda: _limits(policy, own_namespace=held["namespaces"] == "on"))
    close("capabilities", _drop_capabilities)
    close("no_new_privs", lambda: _on(_libc.prctl(38, 1, 0, 0, 0)))
    close("landlock", lambda: _landlock(policy.read, policy.write))
    close("parent_death", lambda: _parent_death(parent))  # after the namespaces: a change of credentials clears it
    close("seccomp", _seccomp)
    return held


def _on(result: int) -> str:
    return "on" if result >= 0 else f"refused: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}"


def _call(number: int, *args: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    return int(result)


def _session() -> str:
    try:
        os.setsid()
    except OSError:
        return "on" if os.getsid(0) == os.getpid() else "refused: already leads a process group"
    return "on"


def _namespaces() -> str:
    """New user, network and IPC namespaces. No PID namespace: its first process would survive `abort`."""
    return _on(_libc.unshare(0x10000000 | 0x40000000 | 0x08000000))


def _drop_capabilities() -> str:
    header = struct.pack("Ii", 0x20080522, 0)
    return _on(_libc.capset(ctypes.c_char_p(header), ctypes.c_char_p(bytes(24))))


def _parent_death(parent: int) -> str:
    result = _on(_libc.prctl(1, int(signal.SIGKILL), 0, 0, 0))
    if parent and os.getppid() != parent:
        os._exit(0)
    return result


def _limits(policy: Policy, own_namespace: bool) -> str:
    with open("/proc/self/statm") as f:
        mapped = int(f.read().split()[0]) * resource.getpagesize()
    wanted = {
        resource.RLIMIT_AS: mapped + policy.memory_bytes,
        resource.RLIMIT_CPU: policy.cpu_seconds,
        resource.RLIMIT_FSIZE: policy.file_bytes,
        resource.RLIMIT_NOFILE: policy.open_files,
        resource.RLIMIT_CORE: 0,
    }
    if own_namespace:  # elsewhere the count is that of the user's whole session
        wanted[resource.RLIMIT_NPROC] = policy.processes
    for kind, value in wanted.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))
    return "on"


# --------------------------------------------------------------------------------------------- Landlock
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REFER, _TRUNCATE = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
_MAKE_SPECIAL = (1 << 6) | (1 << 9) | (1 << 10) | (1 << 11)  # devices, sockets, pipes
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | (1 << 15)


def landlock_version() -> int:
    """The kernel's Landlock ABI; 0 where there is none."""
    return max(0, _call(444, None, 0, 1))


def _landlock(read: tuple[str, ...], write: tuple[str, ...]) -> str:
    version = landlock_version()
    if version < 1:
        return "refused: the kernel has no Landlock"
    files = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, 1 << 15)):
        files |= right if version >= since else 0
    attributes = struct.pack("QQQ", files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    ruleset = _call(444, ctypes.c_char_p(attributes), 8 if version < 4 else 16 if version < 6 else 24, 0)
    if ruleset < 0:
        return _on(ruleset)
    try:
        for path in read:
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in write:
            _allow(ruleset, path, files & ~(_EXECUTE | _MAKE_SPECIAL))
        result = _on(_call(446, ruleset, 0))
    finally:
        os.close(ruleset)
    return result if result != "on" else f"on (version {version})"


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Open a path up; one that is not there stays out of reach anyway."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights = rights if os.path.isdir(path) else rights & _ON_FILES
    _call(445, ruleset, 1, ctypes.c_char_p(struct.pack("=Qi", rights, fd)), 0)
    os.close(fd)


# --------------------------------------------------------------------------------------------- seccomp
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _OK, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _ARCH, _ARGS = 0, 4, 16
_CLONE_THREAD = 0x10000

Instruction = tuple[int, int, int, int]


def _filter(machine: str, pid: int) -> list[Instruction]:
    """The BPF program: allow what is listed, kill on what is hostile, refuse the rest with EPERM."""
    refuse, special = (_RETURN, 0, 0, _ERRNO | errno.EPERM), SPECIAL[machine]
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, AUDIT_ARCH[machine]), (_RETURN, 0, 0, _KILL),
                               (_LOAD, 0, 0, _NUMBER)]  # fmt: skip
    if machine == "x86_64":  # the x32 numbers would pass by every line below
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _KILL)]
    for number in ALLOWED[machine].values():
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _OK)]
    for number in FATAL[machine].values():
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _KILL)]
    code += [(_EQUAL, 0, 1, special["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]  # glibc then uses clone
    code += [(_EQUAL, 0, 4, special["clone"]), (_LOAD, 0, 0, _ARGS), (_ANY_BIT, 0, 1, _CLONE_THREAD),
             (_RETURN, 0, 0, _OK), (_RETURN, 0, 0, _KILL)]  # fmt: skip
    for name in ("kill", "tgkill"):  # to itself: abort
        code += [(_EQUAL, 0, 4, special[name]), (_LOAD, 0, 0, _ARGS), (_EQUAL, 0, 1, pid), (_RETURN, 0, 0, _OK),
                 (_RETURN, 0, 0, _KILL)]  # fmt: skip
    # prlimit64 may read limits (no new value), never set them
    code += [(_EQUAL, 0, 6, special["prlimit64"]), (_LOAD, 0, 0, _ARGS + 16), (_EQUAL, 0, 3, 0),
             (_LOAD, 0, 0, _ARGS + 20), (_EQUAL, 0, 1, 0), (_RETURN, 0, 0, _OK), refuse]  # fmt: skip
    return [*code, refuse]


def _seccomp() -> str:
    machine = platform.machine()
    if machine not in AUDIT_ARCH or struct.calcsize("P") != 8:
        return f"refused: no filter for {machine}"
    code = _filter(machine, os.getpid())
    text = b"".join(struct.pack("=HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(text, len(text))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code), ctypes.addressof(buffer)))
    return _on(_libc.prctl(22, 2, program, 0, 0))
