"""A naive model of layers over each other, to hold against what the engine makes of them, and random layers for it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from engine.layer.entries import Entry
from engine.layer.tarcodec import END, encode_header, padding

Files = dict[str, "Node"]


@dataclass(frozen=True)
class Node:
    """One file; `inode` is the same for all names of it."""

    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    link: str = ""
    inode: object = None


class Nonsense(Exception):
    """A layer that no tar of a real image would be."""


def content_of(entry: Entry) -> bytes:
    """What the file of an entry holds: its name, over and over."""
    return (entry.path * entry.size)[: entry.size]


def tar_of(entries: Iterable[Entry]) -> bytes:
    """The entries as a layer's tar."""
    return b"".join(encode_header(e) + content_of(e) + padding(e.size) for e in entries) + END


def scratch() -> Files:
    """A root directory."""
    return {"/": Node("dir")}


def apply(files: Files, entries: Sequence[Entry]) -> Files:
    """The files with a layer over them (OCI image spec, layer.md); whiteouts are about what is there before."""
    hidden = [real(files, e.path) for e in entries if e.kind == "whiteout"]
    emptied = [resolve(files, "/" + e.path.decode()) for e in entries if e.kind == "opaque"]
    files = dict(files)
    for path in hidden:
        remove(files, path)
    for path in emptied:
        for inner in below(files, path):
            del files[inner]
    for entry in entries:
        if entry.kind not in ("whiteout", "opaque"):
            put(files, entry)
    return files


def put(files: Files, entry: Entry) -> str:
    """One more entry; returns where it came to lie."""
    path = real(files, entry.path)
    make(files, posixpath.dirname(path))
    if entry.kind == "hardlink":
        target = real(files, entry.link)
        if target not in files or files[target].kind in ("dir", "symlink") or target == path:
            raise Nonsense
        files[target] = node = replace(files[target], inode=files[target].inode or object())
    else:
        node = Node(entry.kind, entry.mode, entry.uid, entry.gid, content_of(entry), entry.link.decode())
    if node.kind != "dir" or files.get(path, node).kind != "dir":
        if path == "/":
            raise Nonsense
        remove(files, path)
    files[path] = node
    return path


def make(files: Files, path: str) -> None:
    if path not in files:
        make(files, posixpath.dirname(path))
        files[path] = Node("dir")
    elif files[path].kind != "dir":
        raise Nonsense


def remove(files: Files, path: str) -> None:
    for inner in below(files, path):
        del files[inner]
    files.pop(path, None)


def below(files: Files, path: str) -> list[str]:
    return [p for p in files if p != "/" and p.startswith(path.rstrip("/") + "/")]


def real(files: Files, path: bytes) -> str:
    """Where an entry of that name lies: all directories before the last name are followed."""
    head, tail = posixpath.split("/" + path.decode())
    return posixpath.join(resolve(files, head), tail)


def resolve(files: Files, path: str, depth: int = 0) -> str:
    if depth > 40:
        raise Nonsense
    done = "/"
    parts = [part for part in path.split("/") if part]
    for i, part in enumerate(parts):
        done = posixpath.normpath(posixpath.join(done, part))
        node = files.get(done)
        if node is not None and node.kind == "symlink":
            rest = posixpath.join(node.link, *parts[i + 1 :])
            return resolve(files, posixpath.join(posixpath.dirname(done), rest), depth + 1)
    return done


names = st.sampled_from([b"a", b"b", b"c"])
any_path = st.lists(names, min_size=1, max_size=3).map(b"/".join)
targets = st.one_of(any_path, any_path.map(lambda p: b"/" + p), any_path.map(lambda p: b"../" + p), st.just(b".."), st.just(b"/"))


@st.composite
def any_entry(draw: st.DrawFn) -> Entry:
    """An entry of a layer that is yet to be checked for sense."""
    path = draw(any_path)
    kind = draw(st.sampled_from(["file", "file", "dir", "dir", "symlink", "hardlink", "whiteout", "opaque", "fifo"]))
    mode, uid = draw(st.sampled_from([0o755, 0o644, 0o4711, 0o700])), draw(st.sampled_from([0, 1, 1000]))
    if kind in ("whiteout", "opaque"):
        return Entry(path, kind)
    if kind == "symlink":
        return Entry(path, kind, 0o777, uid, link=draw(targets))
    if kind == "hardlink":
        return Entry(path, kind, link=draw(any_path))
    return Entry(path, kind, mode, uid, size=draw(st.integers(0, 5)) if kind == "file" else 0)


def links_above(files: Files, path: bytes) -> list[str]:
    """The symlinks among the directories of a name, as it is written."""
    parts = path.decode().split("/")
    heads = ["/" + "/".join(parts[:i]) for i in range(1, len(parts))]
    return [head for head in heads if head in files and files[head].kind == "symlink"]


def sane_removal(files: Files, entry: Entry) -> bool:
    """Whether a removal is of something whose name leads straight through directories."""
    path = "/" + entry.path.decode()
    inside = path + "/x" if entry.kind == "opaque" else path
    heads = [head for head in files if head != "/" and inside.startswith(head + "/")]
    return all(files[head].kind == "dir" for head in heads)


def sane_entry(files: Files, state: Files, entry: Entry) -> bool:
    """Whether a name leads through one symlink at most, of a lower layer and to a real directory; and whether a hard link is to a
    file by its own name."""
    links = links_above(state, entry.path)
    if links and (len(links) > 1 or links[0] not in files or state.get(resolve(files, links[0]), Node("file")).kind != "dir"):
        return False
    if links:  # nor through another one behind that
        behind = posixpath.join(resolve(files, links[0]), ("/" + entry.path.decode())[len(links[0]) + 1 :])
        if links_above(state, behind.lstrip("/").encode()):
            return False
    if entry.kind != "hardlink":
        return True
    return not links_above(state, entry.link) and state.get("/" + entry.path.decode(), Node("file")).kind != "dir"


@st.composite
def layer_over(draw: st.DrawFn, files: Files) -> list[Entry]:
    """A layer that makes sense over some files: a name once, sorted, and nothing replaced in it that it has just made."""
    wanted = draw(st.lists(any_entry(), max_size=7, unique_by=lambda e: (e.path, e.kind in ("whiteout", "opaque"), e.kind == "opaque")))
    removals = [e for e in wanted if e.kind in ("whiteout", "opaque") and sane_removal(files, e)]
    out: list[Entry] = []
    state = apply(files, removals)
    written: set[str] = set()
    for entry in sorted((e for e in wanted if e.kind not in ("whiteout", "opaque")), key=lambda e: (e.kind == "hardlink", e.path)):
        trial = dict(state)
        try:
            if not sane_entry(files, state, entry):
                continue
            at = put(trial, entry)
        except Nonsense:
            continue
        named = "/" + entry.path.decode()
        if at in written or (entry.kind != "dir" and any(w.startswith((at + "/", named + "/")) for w in written)):
            continue
        written |= {at, named}
        state = trial
        out.append(entry)
    # What is hidden in something that the layer itself makes no directory of is anybody's guess.
    inside = [r.path + b"/" if r.kind == "opaque" else r.path for r in removals]
    removals = [r for r, path in zip(removals, inside, strict=True)
                if not any(e.kind != "dir" and path.startswith(e.path + b"/") for e in out)]  # fmt: skip
    # Late removals of links would change what the names before them have meant, which no reader of a stream can know; and what is
    # in the way must be gone before something takes its place.
    late = draw(st.booleans()) and not any(node.kind == "symlink" for node in files.values())
    try:
        apply(files, out)
    except Nonsense:
        late = False
    return out + removals if late else draw(st.permutations(removals)) + out


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[list[Entry]], list[Files]]:
    """Layers over each other, and the files after each."""
    layers: list[list[Entry]] = []
    states = [scratch()]
    for _ in range(draw(st.integers(1, 4))):
        layer = draw(layer_over(states[-1]))
        try:
            states.append(apply(states[-1], layer))
        except Nonsense:
            continue
        layers.append(layer)
    return layers, states[1:]
