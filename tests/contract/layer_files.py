"""What the tests of layers share: directories as values, and archives made by hand."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

from engine.layer.entries import Change, Entry

SECOND = 10**9


def listing(root: Path | str, *, times: bool = True, content: bool = True) -> dict[bytes, tuple[object, ...]]:
    """Everything in a directory that a layer can say, by path; hard links as the first of their names."""
    out: dict[bytes, tuple[object, ...]] = {}
    inodes: dict[int, bytes] = {}
    base = os.fsencode(root)
    for change in changes_of(root):
        entry = change.entry
        path = base + b"/" + entry.path
        found = os.lstat(path)
        data = Path(os.fsdecode(path)).read_bytes() if content and entry.kind == "file" else b""
        first = inodes.setdefault(found.st_ino, entry.path)
        out[entry.path] = (entry.kind, entry.mode, entry.uid, entry.gid, data, entry.link if entry.kind == "symlink" else b"",
                           (entry.major, entry.minor), entry.xattrs, found.st_mtime_ns if times else 0, first)
    return out


def changes_of(root: Path | str) -> list[Change]:
    """A directory as the changes that make it, the root too; parents first, a hard link after the file."""
    base = os.fsencode(root)
    out: list[Change] = []
    seen: dict[int, bytes] = {}
    todo = [b""]
    while todo:
        path = todo.pop(0)
        full = base + b"/" + path if path else base
        found = os.lstat(full)
        mode, link, size, source = stat.S_IMODE(found.st_mode), b"", 0, None
        major = minor = 0
        if stat.S_ISDIR(found.st_mode):
            kind = "dir"
            todo += [path + b"/" + name if path else name for name in sorted(map(os.fsencode, os.listdir(full)))]
        elif found.st_ino in seen:
            kind, link = "hardlink", seen[found.st_ino]
        elif stat.S_ISREG(found.st_mode):
            kind, size, source = "file", found.st_size, full
        elif stat.S_ISLNK(found.st_mode):
            kind, link, mode = "symlink", os.readlink(full), 0o777
        else:
            kind = "char" if stat.S_ISCHR(found.st_mode) else "block" if stat.S_ISBLK(found.st_mode) else "fifo"
            if kind != "fifo":
                major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
        if kind != "dir":
            seen.setdefault(found.st_ino, path)
        names = sorted(os.listxattr(full, follow_symlinks=False))
        xattrs = tuple((name, os.getxattr(full, name, follow_symlinks=False)) for name in names)
        out.append(Change(Entry(path, kind, mode, found.st_uid, found.st_gid, size, found.st_mtime_ns, link, "", major, minor, xattrs),
                          source))  # fmt: skip
    return out


def tar(*members: tarfile.TarInfo, path: Path | None = None) -> bytes:
    """An archive of members, whose content is `member.data` if there is any."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for member in members:
            out.addfile(member, io.BytesIO(getattr(member, "data", b"")))
    if path:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


class Member(tarfile.TarInfo):
    """A member with content."""

    data: bytes = b""


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", **fields: object) -> Member:
    out = Member(name)
    out.type, out.data, out.size = kind, data, len(data)
    for key, value in fields.items():
        setattr(out, key, value)
    return out


def folder(name: str, mode: int = 0o755, **fields: object) -> Member:
    return member(name, tarfile.DIRTYPE, mode=mode, **fields)


def symlink(name: str, target: str) -> Member:
    return member(name, tarfile.SYMTYPE, linkname=target)


def hardlink(name: str, target: str) -> Member:
    return member(name, tarfile.LNKTYPE, linkname=target)


def every_kind(root: Path, *, root_user: bool) -> None:
    """A directory with one of everything."""
    (root / "d/e").mkdir(parents=True)
    (root / "f").write_bytes(b"content\n")
    (root / "d/big").write_bytes(os.urandom(3 << 20))
    (root / "d/e/empty").write_bytes(b"")
    os.link(root / "f", root / "d/hard")
    (root / "sym").symlink_to("d/../nowhere")
    (root / ("long" * 40)).write_bytes(b"x")
    with open(os.fsencode(root) + b"/not-\xff-utf8", "wb") as file:
        file.write(b"y")
    os.mkfifo(root / "fifo", 0o640)
    os.chmod(root / "fifo", 0o640)
    os.chmod(root / "f", 0o4755)
    if root_user:
        os.chown(root / "d/big", 1000, 1001)
        os.chown(root / "sym", 7, 8, follow_symlinks=False)
        os.chown(root / "d/e", 70000, 3)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.setxattr(root / "d/big", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
        os.setxattr(root / "d", "trusted.color", b"blue")
    os.chmod(root / "d/e", 0o2775)
    for path in [root / "f", root / "d/big", root / "d/e", root / "d", root]:
        os.utime(path, ns=(10**18, 1234567890 * SECOND))
    for path in root.rglob("*"):
        found = os.lstat(path)
        os.utime(path, ns=(10**18, found.st_mtime_ns // SECOND * SECOND), follow_symlinks=False)
    os.utime(root / "d", ns=(10**18, 1111111111 * SECOND))


Make = Callable[..., Member]
