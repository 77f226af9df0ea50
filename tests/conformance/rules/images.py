"""Words in which the rules' cases are written: what a context holds, what a case says, and what came of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from engine.progress.events import Event, StepOutput, Warned
from engine.request import BuildResult


@dataclass(frozen=True)
class File:
    """A regular file of a context."""

    text: str | bytes = ""
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: int | None = None


@dataclass(frozen=True)
class Dir:
    """A directory of a context."""

    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Link:
    """A symlink of a context; with `hard`, another name of a file."""

    target: str
    hard: bool = False


@dataclass(frozen=True)
class Special:
    """A socket or fifo of a context."""

    kind: str


Node = str | bytes | File | Dir | Link | Special
Context = Mapping[str, Node]


def write(folder: Path, context: Context) -> None:
    """Puts a context into a folder, in the order it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, node in context.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(node, str | bytes):
            node = File(node)
        if isinstance(node, File):
            path.write_bytes(node.text.encode() if isinstance(node.text, str) else node.text)
        elif isinstance(node, Dir):
            path.mkdir(exist_ok=True)
        elif isinstance(node, Link):
            path.hardlink_to(folder / node.target) if node.hard else path.symlink_to(node.target)
            continue
        elif node.kind == "socket":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
            continue
        else:
            os.mkfifo(path)
            continue
        os.chown(path, *node.owner)
        path.chmod(node.mode)
        if isinstance(node, File) and node.mtime is not None:
            os.utime(path, (node.mtime, node.mtime))


@dataclass(frozen=True)
class Case:
    """A Dockerfile, what lies in its context, and what comes of it: files (see `Built.files`), or an error's pattern."""

    dockerfile: str
    context: Context
    files: Mapping[str, str]
    error: str
    options: Mapping[str, Any]


def case(name: str, *rules: int | str, dockerfile: str, context: Context | None = None, files: Mapping[str, str] | None = None,
         error: str = "", **options: Any) -> Any:  # fmt: skip
    """A case of a table, with the rules it is about."""
    value = Case(dockerfile, context or {}, files or {}, error, options)
    return pytest.param(value, id=name, marks=pytest.mark.rule(*rules))


_LETTERS = {"file": "-", "dir": "d", "symlink": "l", "char": "c", "block": "b", "fifo": "p"}


def summary(entry: Mapping[str, Any], path: str) -> str:
    """An entry in one line: `- 644 0:0 text`, `d 755 0:0`, `l 0:0 -> target`, `c 666 0:0 1,3`; a file's other names, its
    capability and a time that was asked for come last."""
    words = [_LETTERS[entry["type"]]]
    if entry["type"] != "symlink":
        words.append(entry["mode"].lstrip("0") or "0")
    words.append(f"{entry['uid']}:{entry['gid']}")
    if entry["type"] == "symlink":
        words += ["->", entry["link"]]
    if entry["type"] == "file" and entry["size"]:
        words.append(entry.get("text", f"{entry['size']} bytes"))
    if "dev" in entry:
        words.append(entry["dev"])
    if entry.get("hardlink", path) != path:
        words.append(f"= {entry['hardlink']}")
    if "xattrs" in entry:
        words.append("cap")
    if "mtime" in entry:
        words.append(f"@{entry['mtime']}")
    return " ".join(words)


@dataclass(frozen=True)
class Built:
    """An image that was built, over its base. `files` has a line for each path that is new or different (`summary`), and
    `gone` for one that is no more."""

    config: dict[str, Any]
    history: list[tuple[str, bool]]
    files: dict[str, str]
    layers: list[list[str]]
    raw: dict[str, Any]
    manifest: dict[str, Any]
    result: BuildResult
    tars: list[bytes] = field(default_factory=list, repr=False)
    """The new layers, uncompressed."""
    events: tuple[Event, ...] = field(default=(), repr=False)

    @property
    def output(self) -> str:
        """What its steps wrote; nothing for steps that were cached."""
        return b"".join(e.data for e in self.events if isinstance(e, StepOutput)).decode()

    @property
    def warnings(self) -> list[str]:
        """The rules of the linter that spoke."""
        return [e.rule for e in self.events if isinstance(e, Warned)]
