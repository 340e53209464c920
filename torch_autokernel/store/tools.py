"""What is built on this machine beside kernels, kept by name: one sealed document and the content it names."""

from __future__ import annotations

import hashlib
import os

from torch_autokernel.core.errors import StoreError
from torch_autokernel.store import files
from torch_autokernel.store.files import Broken
from torch_autokernel.store.shelf import Shelf
from torch_autokernel.store.writer import Writer

FOLDER = "tools"
MOST = 8  # the oldest go: each torch that was ever installed has its own


def read(shelf: Shelf, name: str) -> bytes | Broken:
    """The content, byte for byte what was kept on this machine."""
    folder = os.path.join(shelf.root, FOLDER)
    if problem := shelf.problem():
        return Broken("permissions", problem)
    if broken := files.unfit_folder(folder, shelf.owners):
        return broken
    seal, text = shelf.seal(), files.read(os.path.join(folder, f"{name}.json"), shelf.owners)
    if isinstance(seal, Broken) or isinstance(text, Broken):
        return seal if isinstance(seal, Broken) else text
    said = seal.open(text)
    content = files.read(os.path.join(folder, name), shelf.owners)
    if isinstance(said, Broken) or isinstance(content, Broken):
        return said if isinstance(said, Broken) else content
    if said.get("tool") != name or said.get("sha256") != hashlib.sha256(content).hexdigest():
        return Broken("corrupt", f"{folder}/{name} is not what was written")
    return content


def place(shelf: Shelf, writer: Writer, name: str, content: bytes) -> None:
    """Keep it, in place of an earlier one of that name; within `writer.writing`."""
    folder = os.path.join(shelf.root, FOLDER)
    files.make_folder(folder)
    if broken := files.unfit_folder(folder, shelf.owners):
        raise StoreError(f"the cache cannot be written: {broken.reason}", "remove it, or move it away")
    writer.place_sealed({"tool": name, "sha256": hashlib.sha256(content).hexdigest()}, content, os.path.join(folder, name))
    documents = [os.path.join(folder, n) for n in files.listing(folder) if n.endswith(".json")]
    for path in sorted(documents, key=lambda p: os.lstat(p).st_mtime)[:-MOST]:
        writer.discard(path)
        writer.discard(path.removesuffix(".json"))
