"""Who says that a kernel was judged here: a seal (HMAC-SHA256) over every document of the store.

The seal's key is derived from a random secret in the cache folder (`machine.key`) and from this machine (machine-id,
CPU model), so a document that was edited, or copied from another machine or cache, does not open here.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch_autokernel.core.types import canonical
from torch_autokernel.store import files
from torch_autokernel.store.files import Broken

FORMAT = 1
KEY_FILE = "machine.key"
KEY_BYTES = 32
_HEAD, _END = b',"mac":"', b'"}'
_TAIL_BYTES = len(_HEAD) + 64 + len(_END)


@functools.cache
def machine() -> str:
    """A digest of what tells this machine from others. In a container without a machine-id only the CPU model counts."""
    facts = [_first_line("/etc/machine-id") or _first_line("/var/lib/dbus/machine-id"), _cpu_model()]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def _cpu_model() -> str:
    wanted = ("vendor_id", "cpu family", "model", "model name", "CPU implementer", "CPU variant", "CPU part")
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(4096).split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    lines = (line.partition(":") for line in first.splitlines())
    return "; ".join(f"{k.strip()}={v.strip()}" for k, _, v in lines if k.strip() in wanted)


def new_secret() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


@dataclass(frozen=True)
class Seal:
    """Signs and opens documents. `id` names the secret without telling it."""

    secret: bytes = field(repr=False)
    host: str

    @functools.cached_property
    def id(self) -> str:
        return hashlib.sha256(b"id" + self.secret).hexdigest()[:16]

    @functools.cached_property
    def _key(self) -> bytes:
        return hmac.digest(self.secret, self.host.encode(), "sha256")

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256").hex().encode()

    def close(self, document: Mapping[str, Any]) -> bytes:
        """The document as sealed JSON: its canonical text with the seal as the last member."""
        body = canonical({**document, "format": FORMAT, "host": self.host, "key": self.id}).encode()
        return body[:-1] + _HEAD + self._mac(body) + _END

    def open(self, data: bytes) -> dict[str, Any] | Broken:
        """The document, if not a byte of it has changed since `close` on this machine; else why it does not count."""
        body, tail = data[:-_TAIL_BYTES] + b"}", data[-_TAIL_BYTES:]
        mac = tail[len(_HEAD) : -len(_END)]
        if not hmac.compare_digest(tail, _HEAD + mac + _END) or not hmac.compare_digest(mac, self._mac(body)):
            return self._why_shut(data)
        document = json.loads(body)
        return document if document["format"] == FORMAT else _other_format(document["format"])

    def _why_shut(self, data: bytes) -> Broken:
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return Broken("corrupt", "is not JSON: truncated or damaged")
        if not isinstance(document, dict):
            return Broken("corrupt", "is not a document of this store")
        if document.get("format") != FORMAT:
            return _other_format(document.get("format"))
        if "mac" not in document:
            return Broken("untrusted", "is unsigned")
        if document.get("host") != self.host:
            return Broken("untrusted", "was signed on another machine")
        if document.get("key") != self.id:
            return Broken("untrusted", f"was signed with another {KEY_FILE}")
        return Broken("corrupt", "was changed after it was signed")


def _other_format(found: Any) -> Broken:
    return Broken("untrusted", f"has format {found!r}; this version reads format {FORMAT}")


def read_seal(root: str, owners: frozenset[int]) -> Seal | Broken:
    """The seal of a cache folder, or why there is none."""
    path = os.path.join(root, KEY_FILE)
    secret = files.read(path, owners)
    if isinstance(secret, Broken):
        return secret
    try:
        if os.lstat(path).st_mode & 0o077:
            return Broken("permissions", f"{path} is open to other users; chmod 600 {path}")
    except OSError as error:
        return Broken("missing", f"{path} is not there: {error.strerror}")
    if len(secret) != KEY_BYTES:
        return Broken("corrupt", f"{path} has {len(secret)} bytes where {KEY_BYTES} were written")
    return Seal(secret, machine())
