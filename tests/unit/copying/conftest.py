"""File trees in memory, written down in a line per file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from engine.layer.entries import Entry, ancestors, join, parent

Spec = dict[str, str | Entry]


class MemoryTree:
    """Implements FileTree over a dict of entries; parents are made. Hard links share an identity."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries: dict[bytes, Entry] = {b"": Entry(b"", "dir", 0o755)}
        self.links: dict[bytes, bytes] = {}
        for entry in entries:
            self.put(entry)

    def put(self, entry: Entry) -> None:
        for above in ancestors(entry.path):
            self.entries.setdefault(above, Entry(above, "dir", 0o755))
        if entry.kind == "hardlink":
            first = self.entries[entry.link]
            self.links[entry.link] = entry.link
            self.links[entry.path] = entry.link
            entry = first._replace(path=entry.path)
        self.entries[entry.path] = entry

    def get(self, path: bytes) -> Entry | None:
        return self.entries.get(path)

    def children(self, path: bytes) -> Sequence[bytes]:
        return sorted(p[len(path) + bool(path):] for p in self.entries if p and parent(p) == path)

    def source(self, path: bytes) -> tuple[bytes, int]:
        return b"/disk/" + path, 0

    def identity(self, path: bytes) -> object | None:
        return self.links.get(path)

    def read(self, path: bytes) -> bytes:
        raise KeyError(path)


def entry_of(path: str, text: str | Entry) -> Entry:
    """`path` → an entry: "-> x" is a symlink, "=> x" a hard link, "dir 700 1:2" a directory,
    "file 644 1:2 content" a file; other
    kinds by their name, as in "fifo 600". What is left out is 755 (644 for files) and 0:0."""
    name = path.encode()
    if isinstance(text, Entry):
        return text._replace(path=name)
    if text.startswith("-> "):
        return Entry(name, "symlink", 0o777, link=text[3:].encode())
    if text.startswith("=> "):
        return Entry(name, "hardlink", 0o644, link=text[3:].encode())
    kind, *rest = text.split(" ")
    mode = int(rest[0], 8) if rest and rest[0] else 0o644 if kind == "file" else 0o755
    uid, gid = (int(n) for n in rest[1].split(":")) if len(rest) > 1 else (0, 0)
    content = rest[2] if len(rest) > 2 else ""
    assert kind in ("file", "dir", "fifo", "char", "block", "whiteout", "opaque")
    return Entry(name, kind, mode, uid, gid, len(content), digest=content)  # type: ignore[arg-type]


def _tree(spec: Spec) -> MemoryTree:
    return MemoryTree(entry_of(path, text) for path, text in sorted(spec.items(), key=lambda item: str(item[1])[:2] == "=>"))


def _lines(entries: Iterable[Entry]) -> dict[str, str]:
    """Entries back as lines (files with their digest, which the specs fill with their content)."""
    out = {}
    for e in entries:
        path = e.path.decode("utf-8", "backslashreplace")
        if e.kind in ("symlink", "hardlink"):
            out[path] = f"{'->' if e.kind == 'symlink' else '=>'} {e.link.decode()}"
        elif e.kind in ("whiteout", "opaque"):
            out[path + (" opaque" if e.kind == "opaque" else "")] = e.kind
        else:
            out[path] = f"{e.kind} {e.mode:o} {e.uid}:{e.gid}" + (f" {e.digest}" if e.digest else "")
    return out


@pytest.fixture(scope="session")
def tree_of() -> Callable[[Spec], MemoryTree]:
    return _tree


@pytest.fixture(scope="session")
def lines() -> Callable[[Iterable[Entry]], dict[str, str]]:
    return _lines


@pytest.fixture(scope="session")
def entry_for() -> Callable[[str, str | Entry], Entry]:
    return entry_of


@pytest.fixture(scope="session")
def applied() -> Callable[[MemoryTree, Iterable[Entry]], MemoryTree]:
    """A tree with a layer's entries applied as a runtime does."""
    def apply(tree: MemoryTree, entries: Iterable[Entry]) -> MemoryTree:
        out = MemoryTree()
        out.entries, out.links = dict(tree.entries), dict(tree.links)
        listed = list(entries)
        for entry in listed:
            if entry.kind == "whiteout":
                _remove(out, entry.path, itself=True)
            elif entry.kind == "opaque":
                _remove(out, entry.path, itself=False)
        for entry in listed:
            if entry.kind in ("whiteout", "opaque"):
                continue
            old = out.entries.get(entry.path)
            if old is not None and not (old.kind == entry.kind == "dir"):
                _remove(out, entry.path, itself=True)
            assert out.entries[parent(entry.path)].kind == "dir"
            out.put(entry)
        return out

    return apply


def _remove(tree: MemoryTree, path: bytes, *, itself: bool) -> None:
    for inner in [p for p in tree.entries if p.startswith(join(path, b"/")[:len(path)] + b"/") or (itself and p == path)]:
        del tree.entries[inner]
        tree.links.pop(inner, None)
