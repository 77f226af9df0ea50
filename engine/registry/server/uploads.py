"""Blob uploads: bytes are appended and digested as they arrive, and become a blob when the client says what they are.

The state of an upload is its file; the digest so far is kept in memory only. When that is lost (the server was started anew,
or very many uploads are open) the file is read again.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio import to_thread
from msgspec import Struct, field

from engine.image.digest import Digest
from engine.registry.server.names import Repository
from engine.registry.server.refusals import Refusal
from engine.registry.server.storage import Storage

_ID = re.compile(r"[0-9a-f]{32}")
_REMEMBERED = 4096
_WORTH_A_THREAD = 64 << 10
_READ = 1 << 20


class Upload(Struct):
    """An upload. Whoever appends or finishes holds `lock`; `offset` is how many bytes have arrived."""

    id: str
    repository: Repository
    path: Path
    offset: int = 0
    hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    lock: anyio.Lock = field(default_factory=anyio.Lock)
    closed: bool = False


class Uploads:
    """All open uploads of a storage. `disk` limits the threads that write and digest."""

    def __init__(self, storage: Storage, disk: anyio.CapacityLimiter) -> None:
        self._storage = storage
        self._disk = disk
        self._open: OrderedDict[str, Upload] = OrderedDict()

    def create(self, repository: Repository) -> Upload:
        """A new, empty upload."""
        identity = secrets.token_hex(16)
        upload = Upload(identity, repository, self._storage.uploads(repository) / identity)
        upload.path.parent.mkdir(parents=True, exist_ok=True)
        upload.path.touch(exist_ok=False)
        self._remember(upload)
        return upload

    async def get(self, repository: Repository, identity: str) -> Upload:
        """An open upload; raises `Refusal` BLOB_UPLOAD_UNKNOWN when there is none of this id in this repository."""
        unknown = Refusal("BLOB_UPLOAD_UNKNOWN", {"id": identity[:64]})
        if not _ID.fullmatch(identity):
            raise unknown
        upload = self._open.get(identity) or Upload(identity, repository, self._storage.uploads(repository) / identity)
        if upload.repository != repository:
            raise unknown
        self._remember(upload)
        if upload.lock.locked():
            return upload  # whoever holds it keeps its state right
        async with upload.lock:
            try:
                if upload.path.stat().st_size != upload.offset:
                    await to_thread.run_sync(_read_again, upload, limiter=self._disk)
            except (FileNotFoundError, NotADirectoryError):
                self.cancel(upload)
                raise unknown from None
        return upload

    @asynccontextmanager
    async def hold(self, repository: Repository, identity: str) -> AsyncIterator[Upload]:
        """An open upload for one request alone, after those that came before; raises `Refusal` BLOB_UPLOAD_UNKNOWN."""
        upload = await self.get(repository, identity)
        async with upload.lock:
            if upload.closed:
                raise Refusal("BLOB_UPLOAD_UNKNOWN", {"id": identity})
            yield upload

    async def append(self, upload: Upload, data: bytes) -> None:
        """Appends bytes. The caller holds the lock. Small pieces are not worth a thread."""
        if len(data) < _WORTH_A_THREAD:
            _append(upload, data)
        else:
            await to_thread.run_sync(_append, upload, data, limiter=self._disk)

    async def finish(self, upload: Upload, digest: Digest) -> None:
        """Publishes the upload as a blob and ends it; raises `Refusal` DIGEST_INVALID, which ends it too. The caller holds the
        lock."""
        try:
            if digest.algorithm == "sha256":
                found = upload.hash.hexdigest()
            else:
                found = await to_thread.run_sync(_hash_file, upload.path, digest.algorithm, limiter=self._disk)
            if found != digest.hex:
                raise Refusal("DIGEST_INVALID", {"digest": str(digest), "found": f"{digest.algorithm}:{found}"})
            self._storage.adopt(upload.repository, digest, upload.path)
        finally:
            self.cancel(upload)

    def cancel(self, upload: Upload) -> None:
        """Ends an upload and forgets its bytes."""
        upload.closed = True
        self._open.pop(upload.id, None)
        with suppress(FileNotFoundError, NotADirectoryError):
            upload.path.unlink()

    def _remember(self, upload: Upload) -> None:
        self._open[upload.id] = upload
        self._open.move_to_end(upload.id)
        while len(self._open) > _REMEMBERED:
            self._open.popitem(last=False)


def _append(upload: Upload, data: bytes) -> None:
    # No O_CREAT: an upload that was cancelled meanwhile must not come back. O_APPEND would let two servers interleave.
    descriptor = os.open(upload.path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        view, offset = memoryview(data), upload.offset
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written
    except OSError:
        os.ftruncate(descriptor, upload.offset)
        raise
    finally:
        os.close(descriptor)
    upload.hash.update(data)
    upload.offset = offset


def _read_again(upload: Upload) -> None:
    upload.hash, upload.offset = hashlib.sha256(), 0
    with open(upload.path, "rb") as file:
        while data := file.read(_READ):
            upload.hash.update(data)
            upload.offset += len(data)


def _hash_file(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
