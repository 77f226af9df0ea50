"""The work itself: what builds cannot do without, by the shortest program that does it, and no build around it. What a build takes
is to be compared with this on the same machine in the same run, as machines differ, and one machine from hour to hour.

Unpacking: inflate and digest in threads, files with owners, modes and times. Packing: a sorted walk, ustar headers, a digest of
the tar, 1 MiB chunks deflated by isal's level 1 in threads, a digest of the blob. For inputs of this harness: nothing else is
looked out for, nothing checked, nothing kept, nothing sent.

    python -m perf.plain WORK INPUTS DIRECTORY
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Thread

from isal import isal_zlib

from perf.inputs import Inputs, make

_CHUNK = 1 << 20


def unpack(blob: Path, root: Path) -> str:
    """Unpacks a layer; returns the digest of its tar."""
    inflated: Queue[bytes] = Queue(32)
    digested: Queue[bytes] = Queue(64)
    digest = hashlib.sha256()

    def inflate() -> None:
        stream = isal_zlib.decompressobj(31)
        with open(blob, "rb", buffering=0) as file:
            while piece := file.read(_CHUNK // 2):
                data = stream.decompress(piece)
                inflated.put(data)
                digested.put(data)
        inflated.put(b"")
        digested.put(b"")

    threads = [Thread(target=inflate), Thread(target=lambda: [digest.update(data) for data in iter(digested.get, b"")])]
    for thread in threads:
        thread.start()
    _make(_Reader(inflated), root)
    for thread in threads:
        thread.join()
    return digest.hexdigest()


class _Reader:
    def __init__(self, pieces: Queue[bytes]) -> None:
        self._pieces, self._data, self._at = pieces, b"", 0

    def read(self, size: int) -> bytes:
        parts = [self._data[self._at : self._at + size]]
        self._at += size
        missing = size - len(parts[0])
        while missing and (data := self._pieces.get()):
            parts.append(data[:missing])
            self._data, self._at = data, len(parts[-1])
            missing -= len(parts[-1])
        return b"".join(parts)


def _make(tar: _Reader, root: Path) -> None:
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    times: list[tuple[bytes, int]] = []
    while (head := tar.read(512)).strip(b"\0"):
        name, prefix = head[:100].rstrip(b"\0"), head[345:500].rstrip(b"\0")
        name = (prefix + b"/" + name if prefix else name).rstrip(b"/")
        mode, size, seconds = (int(head[at : at + length].rstrip(b"\0 "), 8) for at, length in ((100, 8), (124, 12), (136, 12)))
        kind = head[156:157]
        if kind == tarfile.REGTYPE:
            data = tar.read(size + -size % 512)
            file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=here)
            os.write(file, memoryview(data)[:size])
            os.fchown(file, 0, 0)
            os.fchmod(file, mode)
            os.utime(file, (seconds, seconds))
            os.close(file)
        elif kind == tarfile.DIRTYPE:
            os.makedirs(root / os.fsdecode(name), mode, exist_ok=True)
            os.chmod(name, mode, dir_fd=here)
            times.append((name, seconds))
        elif kind == tarfile.SYMTYPE:
            os.symlink(head[157:257].rstrip(b"\0"), name, dir_fd=here)
    tar.read(1 << 30)
    for name, seconds in times:
        os.utime(name, (seconds, seconds), dir_fd=here)
    os.close(here)


def pack(top: Path, blob: Path) -> tuple[str, str]:
    """Packs a directory or file; returns the digests of the tar and of the blob."""
    chunks: Queue[bytes] = Queue(16)
    digested: Queue[bytes] = Queue(16)
    tar, out = hashlib.sha256(), hashlib.sha256()

    def read() -> None:
        parts: list[bytes] = []
        size = 0
        for data in _tar(top):
            parts.append(data)
            size += len(data)
            if size >= _CHUNK:
                chunks.put(b"".join(parts))
                parts, size = [], 0
        chunks.put(b"".join([*parts, bytes(1024)]))
        chunks.put(b"")

    threads = [Thread(target=read), Thread(target=lambda: [tar.update(data) for data in iter(digested.get, b"")])]
    for thread in threads:
        thread.start()
    pending: list[Future[bytes]] = []
    with ThreadPoolExecutor(3) as pool, open(blob, "wb", buffering=0) as file:

        def write(left: int) -> None:
            while len(pending) > left:
                data = pending.pop(0).result()
                out.update(data)
                file.write(data)

        for chunk in iter(chunks.get, b""):
            digested.put(chunk)
            pending.append(pool.submit(_deflate, chunk))
            write(4)
        write(0)
    digested.put(b"")
    for thread in threads:
        thread.join()
    return tar.hexdigest(), out.hexdigest()


def _deflate(chunk: bytes) -> bytes:
    stream = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)
    return stream.compress(chunk) + stream.flush()


def _tar(top: Path) -> Iterator[bytes]:
    skip = len(os.fsencode(top.parent)) + 1
    todo = [os.fsencode(top)]
    while todo:
        path = todo.pop()
        status = os.lstat(path)
        name = path[skip:]
        if os.path.isdir(path):
            yield _header(name + b"/", 0o755, 0, status.st_mtime, tarfile.DIRTYPE)
            todo += sorted((entry.path for entry in os.scandir(path)), reverse=True)
            continue
        yield _header(name, status.st_mode & 0o7777, status.st_size, status.st_mtime, tarfile.REGTYPE)
        file = os.open(path, os.O_RDONLY)
        left = status.st_size
        while left and (data := os.read(file, min(left, _CHUNK))):
            left -= len(data)
            yield data
        os.close(file)
        yield bytes(-status.st_size % 512)


def _header(name: bytes, mode: int, size: int, seconds: float, kind: bytes) -> bytes:
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (name.ljust(100, b"\0"), mode, 0, 0, size, int(seconds))
    tail = b"%b%bustar\x0000%b" % (kind, bytes(100), bytes(247))
    return b"%b%06o\0 %b" % (head, sum(head) + sum(tail) + 8 * 32, tail)


def _hello(inputs: Inputs, place: Path) -> None:
    for blob, _ in inputs.small:
        unpack(blob, place)


def _runs30(inputs: Inputs, place: Path) -> None:
    for blob, _ in inputs.big:
        unpack(blob, place)


def _copytree(inputs: Inputs, place: Path) -> None:
    pack(inputs.tree, place / "blob")


def _bigfile(inputs: Inputs, place: Path) -> None:
    pack(inputs.file, place / "blob")


def _manyfiles_run(inputs: Inputs, place: Path) -> None:
    _runs30(inputs, place)
    subprocess.run(["cp", "-a", "opt/tree", "opt/copy"], cwd=place, check=True)
    pack(place / "opt/copy", place / "blob")


def _stages(inputs: Inputs, place: Path) -> None:
    loop = "sleep 1.2; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    stages = [subprocess.Popen(["sh", "-c", loop]) for _ in range(8)]
    for stage in stages:
        stage.wait()


def _copyrun(inputs: Inputs, place: Path) -> None:
    _hello(inputs, place)
    subprocess.run(["cp", "-r", inputs.tree, place / "node_modules"], check=True)
    _copytree(inputs, place)


WORKS: dict[str, Callable[[Inputs, Path], None]] = {"hello": _hello, "runs30": _runs30, "copytree": _copytree, "bigfile": _bigfile,
                                                    "manyfiles_run": _manyfiles_run, "stages": _stages, "copyrun": _copyrun,
                                                    "edit": _runs30}  # fmt: skip


def main() -> None:
    """Does one work in a directory that is made."""
    work, inputs, directory = sys.argv[1:]
    scale = Path(inputs).name.rpartition("-")[2]
    place = Path(directory)
    place.mkdir()
    WORKS[work](make(Path(inputs).parent, float(scale)), place)


if __name__ == "__main__":
    main()
