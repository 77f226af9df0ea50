"""The directory a registry lives in: blobs by digest, shared by all repositories, and what each repository has of them.

    blobs/<algorithm>/<hex>                        every blob and manifest once
    repositories/<name>/_blobs/<algorithm>/<hex>       empty: the repository has this blob
    repositories/<name>/_manifests/<algorithm>/<hex>   holds the media type: the repository has this manifest
    repositories/<name>/_tags/<tag>                    holds a digest
    repositories/<name>/_referrers/<algorithm>/<hex of the subject>/<algorithm>-<hex>   holds the referrer's descriptor
    repositories/<name>/_uploads/<id>                  bytes of an upload so far
    tmp/                                           files on their way to one of the above

Every file appears under its name by a rename, and points only to what is there already; so a kill at any moment leaves a
state that is right. Nothing is synced to disk: after a power failure blobs may be missing, and are healed by a new push.
Calls are short (a stat, a rename) and synchronous; the few that walk directories say so. Repositories, tags and digests are
types that are checked when they are made, so no name leads out of the directory.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from engine import codec
from engine.errors import StorageError
from engine.image.digest import Digest
from engine.registry.server.names import Repository, Tag

_STALE = 7 * 86400.0


class StoredManifest(Struct, frozen=True):
    """A manifest as it was put."""

    digest: Digest
    media_type: str
    raw: bytes


class Storage:
    """Blobs, manifests, tags and referrers in a directory. Several requests, and several servers, may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._repositories = root / "repositories"
        self._tmp = root / "tmp"

    def open(self) -> None:
        """Makes the directory and removes what a killed server left more than a week ago; raises `StorageError` when it cannot
        be written. Walks all repositories."""
        try:
            for directory in (self._repositories, self._tmp, self.root / "blobs" / "sha256"):
                directory.mkdir(parents=True, exist_ok=True)
            self.replace(self._tmp / "probe", b"")
            (self._tmp / "probe").unlink(missing_ok=True)
            limit = time.time() - _STALE
            stale = [self._tmp, *(self.uploads(r) for r in self.catalog(any_state=True))]
            for path in (p for d in stale if d.is_dir() for p in d.iterdir()):
                if path.stat().st_mtime < limit:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot use {self.root} for a registry: {error.strerror or error}",
                               hint="choose a directory you can write to with --dir") from error

    # Blobs

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob lies, whether or not it is there."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def blob(self, repository: Repository, digest: Digest) -> tuple[Path, int] | None:
        """Path and size in bytes of a blob (or manifest) that the repository has; None if it has not."""
        if not any(os.path.exists(self._link(repository, kind, digest)) for kind in ("_blobs", "_manifests")):
            return None
        path = self.blob_path(digest)
        try:
            return path, os.stat(path).st_size
        except OSError:
            return None

    def adopt(self, repository: Repository, digest: Digest, source: Path) -> None:
        """Makes a file, whose digest the caller has checked, the blob of that digest and the repository have it. A blob that is
        there is replaced by its equal, which heals one that a power failure has damaged."""
        _in_directory(self.blob_path(digest), lambda target: os.replace(source, target))
        self.link(repository, digest)

    def link(self, repository: Repository, digest: Digest) -> None:
        """Makes the repository have a blob that is in the store."""
        _in_directory(self._link(repository, "_blobs", digest), Path.touch)

    def mount(self, repository: Repository, digest: Digest, source: Repository) -> bool:
        """Makes the repository have a blob that another one has; False if that has not."""
        if not self.blob(source, digest):
            return False
        self.link(repository, digest)
        return True

    def unlink(self, repository: Repository, digest: Digest) -> bool:
        """Makes the repository not have a blob; False if it had not. The bytes stay, for others may have them."""
        return _unlink(self._link(repository, "_blobs", digest))

    # Manifests

    def put_manifest(self, repository: Repository, manifest: StoredManifest, tag: Tag | None, subject: Digest | None,
                     referrer: dict[str, Any] | None) -> None:
        """Stores a manifest, and then what points to it: the referrer entry of its subject, its link, its tag."""
        digest = manifest.digest
        self.replace(self.blob_path(digest), manifest.raw)
        if subject and referrer:
            self.replace(self._referrers(repository, subject) / f"{digest.algorithm}-{digest.hex}", codec.encode(referrer))
        self.replace(self._link(repository, "_manifests", digest), manifest.media_type.encode())
        if tag:
            self.replace(self._repo(repository) / "_tags" / tag.name, str(digest).encode())

    def resolve(self, repository: Repository, tag: Tag) -> Digest | None:
        """The digest a tag stands for."""
        text = _read(self._repo(repository) / "_tags" / tag.name)
        return Digest.parse(text.decode()) if text else None

    def manifest(self, repository: Repository, reference: Tag | Digest) -> StoredManifest | None:
        """A manifest the repository has, by tag or digest."""
        digest = reference if isinstance(reference, Digest) else self.resolve(repository, reference)
        if digest is None or (media_type := _read(self._link(repository, "_manifests", digest))) is None:
            return None
        raw = _read(self.blob_path(digest))
        return None if raw is None else StoredManifest(digest, media_type.decode(), raw)

    def delete_tag(self, repository: Repository, tag: Tag) -> bool:
        """Forgets a tag; False if there is none."""
        return _unlink(self._repo(repository) / "_tags" / tag.name)

    def delete_manifest(self, repository: Repository, digest: Digest, subject: Digest | None) -> bool:
        """Forgets a manifest, the tags that point to it and its referrer entry; False if the repository has it not."""
        for tag in self.tags(repository) or ():
            if self.resolve(repository, Tag(tag)) == digest:
                self.delete_tag(repository, Tag(tag))
        if subject:
            _unlink(self._referrers(repository, subject) / f"{digest.algorithm}-{digest.hex}")
        return _unlink(self._link(repository, "_manifests", digest))

    # Lists

    def tags(self, repository: Repository) -> list[str] | None:
        """All tags, sorted; None when the repository has never had a manifest."""
        if not (self._repo(repository) / "_manifests").is_dir():
            return None
        return sorted(_names(self._repo(repository) / "_tags"))

    def referrers(self, repository: Repository, subject: Digest) -> list[dict[str, Any]]:
        """The descriptors of the manifests that have this subject and are still there, by digest."""
        directory, out = self._referrers(repository, subject), []
        for name in sorted(_names(directory)):
            digest = Digest(*name.split("-", 1))
            raw = _read(directory / name)
            if raw and os.path.exists(self._link(repository, "_manifests", digest)):
                out.append(codec.decode(raw))
        return out

    def catalog(self, *, any_state: bool = False) -> list[Repository]:
        """All repositories that have (had) manifests, or with `any_state` also those with an upload only; sorted. Walks."""
        return sorted(self._walk("", any_state))

    def _walk(self, name: str, any_state: bool) -> Iterator[Repository]:
        children = _names(self._repositories / name)
        if "_manifests" in children or (any_state and "_uploads" in children):
            yield Repository(name)
        for child in children:
            if not child.startswith("_"):
                yield from self._walk(f"{name}/{child}" if name else child, any_state)

    # Files

    def uploads(self, repository: Repository) -> Path:
        """The directory of a repository's uploads."""
        return self._repo(repository) / "_uploads"

    def replace(self, path: Path, data: bytes) -> None:
        """Writes a small file whole, under its name only when it is complete."""
        temporary = self._tmp / secrets.token_hex(12)
        try:
            temporary.write_bytes(data)
            _in_directory(path, lambda target: os.replace(temporary, target))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _repo(self, repository: Repository) -> Path:
        return self._repositories / repository.name

    def _link(self, repository: Repository, kind: str, digest: Digest) -> Path:
        return self._repositories / repository.name / kind / digest.algorithm / digest.hex

    def _referrers(self, repository: Repository, subject: Digest) -> Path:
        return self._link(repository, "_referrers", subject)


def _in_directory(path: Path, publish: Callable[[Path], object]) -> None:
    """Calls `publish(path)`; only if its directory is not there makes that, and tries again."""
    try:
        publish(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
