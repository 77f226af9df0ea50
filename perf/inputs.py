"""What the benchmarks build from: bases, a tree of many small files and one big file, the same on every machine.

Contents come from one seeded pool of bytes, in which source code, tables and machine code alternate, so that gzip -6 makes about
a third of it. Files are slices of the pool, numbered, so that no two are the same.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "2"
"""Of the inputs; to be raised when they change, since they are kept between runs."""
TIME = 1_600_000_000
_POOL = 24 << 20


@dataclass(frozen=True, slots=True)
class Inputs:
    """Directories and files that works are made of. `layers` are gzip blobs of the bases, lowest first, with their diff ids."""

    directory: Path
    small: tuple[tuple[Path, str], ...]
    big: tuple[tuple[Path, str], ...]

    @property
    def tree(self) -> Path:
        """40 k files, 600 MB, like a node_modules directory."""
        return self.directory / "node_modules"

    @property
    def file(self) -> Path:
        """1 GiB."""
        return self.directory / "big.bin"


def make(directory: Path, scale: float = 1.0) -> Inputs:
    """Makes what is not there yet. `scale` is for trying the harness: 0.05 makes a twentieth of the files and bytes."""
    directory = directory / f"inputs-{VERSION}-{scale}"
    directory.mkdir(parents=True, exist_ok=True)
    pool = Pool()
    layers = [("os", lambda: _os_layer(pool, round(8_700 * scale), round(110_000_000 * scale))),
              ("tools", lambda: _layer(pool, "usr/lib/tools", round(4_000 * scale), round(90_000_000 * scale), 2)),
              ("data", lambda: _layer(pool, "opt/tree", round(40_000 * scale), round(250_000_000 * scale), 3)),
              ("app", lambda: _layer(pool, "srv/app", round(2_300 * scale), round(20_000_000 * scale), 4))]  # fmt: skip
    blobs = tuple(_blob(directory / f"{name}.tar.gz", build) for name, build in layers)
    inputs = Inputs(directory, blobs[:1], blobs)
    _once(inputs.tree, lambda to: make_tree(pool, to, round(40_000 * scale), round(600_000_000 * scale)))
    _once(inputs.file, lambda to: make_file(pool, to, round((1 << 30) * scale)))
    return inputs


def make_tiny(directory: Path) -> tuple[tuple[Path, str], ...]:
    """The layer of a base that has busybox and nothing else, for works whose base is not to be seen in what they take."""
    directory.mkdir(parents=True, exist_ok=True)
    return (_blob(directory / f"tiny-{VERSION}.tar.gz", lambda: _os_layer(Pool(), 0, 0)),)


class Pool:
    """Slices of pseudo-random but compressible bytes; made when first needed."""

    def __init__(self) -> None:
        self._data = b""

    def slice(self, number: int, size: int) -> bytes:
        """`size` bytes, other ones for each number."""
        data = self._data = self._data or _compressible(random.Random(7), _POOL)
        at = (number * 7_368_787) % (_POOL - (1 << 20))
        head = b"// %d\n" % number
        return (head + data[at : at + size])[:size] if size <= 1 << 20 else head + data[at : at + (1 << 20) - len(head)]


def _compressible(chance: random.Random, size: int) -> bytes:
    words = [bytes(chance.choices(b"etaoinshrdlucmfwypvbgkjqxz_", k=chance.randint(2, 9))) for _ in range(1_500)]
    words += [b"function", b"return", b"const", b"this.", b"require(", b"if (", b"});\n\n", b"=== ", b"import ", b"\n    "] * 40
    phrases = [b" ".join(chance.choices(words, k=chance.randint(3, 9))) for _ in range(900)]
    weights = [1 / (i + 4) for i in range(len(phrases))]
    out = io.BytesIO()
    while out.tell() < size:
        kind = chance.random()
        if kind < 0.75:  # source
            for phrase in chance.choices(phrases, weights, k=160):
                out.write(phrase + chance.choice((b" ", b"(", b";\n  ", b".", b", ")) + chance.choice(words) + b";\n")
        elif kind < 0.85:  # a table of numbers
            out.write(b"".join(b"%d,%d\n" % (i, chance.randrange(5000)) for i in range(400)))
        elif kind < 0.95:  # machine code, roughly: few distinct opcodes between operands
            codes = chance.choices((0x48, 0x8B, 0x89, 0xE8, 0x0F, 0x00, 0x24, 0xC3, 0xFF), k=3000)
            out.write(bytes(c if chance.random() < 0.7 else chance.randrange(256) for c in codes))
        else:  # pictures, archives
            out.write(chance.randbytes(3000))
    return out.getvalue()[:size]


def _sizes(count: int, total: int, seed: int) -> list[int]:
    """File sizes as they are: many small ones, a few large."""
    if not count:
        return []
    chance = random.Random(seed)
    raw = [chance.lognormvariate(0, 1.6) for _ in range(count)]
    scale = total / sum(raw)
    return [max(1, min(int(x * scale), 4 << 20)) for x in raw]


def _names(top: str, count: int) -> Iterator[str]:
    for i in range(count):
        yield f"{top}/pkg{i // 60:03d}/{('lib', 'src', 'dist', 'src/inner')[i // 15 % 4]}/module{i % 60:02d}.js"


def _content(pool: Pool, number: int, size: int) -> bytes:
    return b"".join(pool.slice(number * 64 + part, min(1 << 20, size - at)) for part, at in enumerate(range(0, size, 1 << 20)))


def _blob(path: Path, build: Callable[[], bytes]) -> tuple[Path, str]:
    """A layer's blob, compressed as other builders do (gzip -6), and its diff id."""
    note = path.with_suffix(".diff-id")
    if not note.exists():
        tar = build()
        path.write_bytes(gzip.compress(tar, 6, mtime=0))
        note.write_text("sha256:" + hashlib.sha256(tar).hexdigest())
    return path, note.read_text()


class _Tar:
    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._made: set[str] = set()

    def add(self, path: str, data: bytes | None = None, *, mode: int = 0o755, link: str = "") -> None:
        parent = os.path.dirname(path)
        if parent and parent not in self._made:
            self.add(parent)
        info = tarfile.TarInfo(path)
        info.mode, info.mtime = mode, TIME
        if link:
            info.type, info.linkname = tarfile.SYMTYPE, link
        elif data is None:
            info.type = tarfile.DIRTYPE
            self._made.add(path)
        else:
            info.size = len(data)
        self._tar.addfile(info, io.BytesIO(data or b""))

    def finish(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()


def _os_layer(pool: Pool, count: int, total: int) -> bytes:
    """A root filesystem with busybox's programs, and as many files as a Debian has."""
    busybox = shutil.which("busybox")
    if not busybox:
        raise SystemExit("busybox is needed to make the bases: scripts/install busybox-static")
    tar = _Tar()
    for directory in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "usr/sbin", "var"):
        tar.add(directory)
    tar.add("tmp", mode=0o1777)
    tar.add("bin/busybox", Path(busybox).read_bytes())
    for applet in subprocess.run([busybox, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split():
        if applet != "busybox":
            tar.add(f"bin/{applet}", link="busybox")
    tar.add("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", mode=0o644)
    tar.add("etc/group", b"root:x:0:\n", mode=0o644)
    return _fill(tar, pool, "usr/share/os", max(0, count - 400), total, 1)


def _layer(pool: Pool, top: str, count: int, total: int, seed: int) -> bytes:
    return _fill(_Tar(), pool, top, count, total, seed)


def _fill(tar: _Tar, pool: Pool, top: str, count: int, total: int, seed: int) -> bytes:
    for i, (name, size) in enumerate(zip(_names(top, count), _sizes(count, total, seed), strict=False)):
        tar.add(name, _content(pool, seed * 1_000_000 + i, size), mode=0o644)
    return tar.finish()


def _once(path: Path, write: Callable[[Path], None]) -> None:
    if not path.exists():
        draft = path.with_name(path.name + ".draft")
        shutil.rmtree(draft, ignore_errors=True)
        write(draft)
        os.rename(draft, path)


def make_tree(pool: Pool, top: Path, count: int, total: int) -> None:
    """Writes `count` files, of `total` bytes together, in directories below `top`."""
    for i, (name, size) in enumerate(zip(_names(str(top), count), _sizes(count, total, 5), strict=False)):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(pool, 5_000_000 + i, size))


def make_file(pool: Pool, path: Path, size: int) -> None:
    """Writes one file of `size` bytes."""
    with open(path, "wb") as file:
        for n, at in enumerate(range(0, size, 1 << 20)):
            file.write(pool.slice(9_000_000 + n, min(1 << 20, size - at)))
