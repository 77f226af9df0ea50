"""The storage directory, compared with the dictionaries that say what it should hold."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.errors import StorageError
from engine.image.digest import Digest
from engine.registry.server.names import Repository, Tag
from engine.registry.server.storage import Storage, StoredManifest

REPOSITORIES = st.sampled_from([Repository("a"), Repository("a/b"), Repository("c-d/e")])
TAGS = st.sampled_from([Tag("v1"), Tag("latest"), Tag("sha256-x")])
CONTENTS = st.sampled_from([b"", b"one", b"two", b"three"])


class StorageMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.root = Path(self.directory.name)
        self.storage = Storage(self.root)
        self.storage.open()
        self.blobs: set[tuple[Repository, Digest]] = set()
        self.manifests: dict[tuple[Repository, Digest], bytes] = {}
        self.tags: dict[tuple[Repository, Tag], Digest] = {}
        self.subjects: dict[tuple[Repository, Digest], Digest] = {}
        self.known: set[Repository] = set()

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def adopt(self, repository: Repository, content: bytes) -> None:
        source = self.root / "tmp" / "incoming"
        source.write_bytes(content)
        self.storage.adopt(repository, Digest.of(content), source)
        self.blobs.add((repository, Digest.of(content)))

    @rule(repository=REPOSITORIES, source=REPOSITORIES, content=CONTENTS)
    def mount(self, repository: Repository, source: Repository, content: bytes) -> None:
        digest = Digest.of(content)
        there = (source, digest) in self.blobs or (source, digest) in self.manifests
        assert self.storage.mount(repository, digest, source) == there
        if there:
            self.blobs.add((repository, digest))

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def unlink(self, repository: Repository, content: bytes) -> None:
        assert self.storage.unlink(repository, Digest.of(content)) == ((repository, Digest.of(content)) in self.blobs)
        self.blobs.discard((repository, Digest.of(content)))

    @rule(repository=REPOSITORIES, content=CONTENTS, tag=st.one_of(st.none(), TAGS))
    def put_manifest(self, repository: Repository, content: bytes, tag: Tag | None) -> None:
        digest, subject = Digest.of(content), Digest.of(content[:1])
        self.storage.put_manifest(repository, StoredManifest(digest, "x/y", content), tag, subject, {"digest": str(digest)})
        self.manifests[repository, digest] = content
        self.subjects[repository, digest] = subject
        self.known.add(repository)
        if tag:
            self.tags[repository, tag] = digest

    @rule(repository=REPOSITORIES, content=CONTENTS)
    def delete_manifest(self, repository: Repository, content: bytes) -> None:
        digest = Digest.of(content)
        there = (repository, digest) in self.manifests
        assert self.storage.delete_manifest(repository, digest, Digest.of(content[:1])) == there
        self.manifests.pop((repository, digest), None)
        self.subjects.pop((repository, digest), None)
        self.tags = {key: value for key, value in self.tags.items() if (key[0], value) != (repository, digest)}

    @rule(repository=REPOSITORIES, tag=TAGS)
    def delete_tag(self, repository: Repository, tag: Tag) -> None:
        assert self.storage.delete_tag(repository, tag) == ((repository, tag) in self.tags)
        self.tags.pop((repository, tag), None)

    @invariant()
    def holds_what_it_should(self) -> None:
        for repository in (Repository("a"), Repository("a/b"), Repository("c-d/e")):
            for content in (b"", b"one", b"two", b"three"):
                digest = Digest.of(content)
                found = self.storage.blob(repository, digest)
                assert (found is not None) == ((repository, digest) in self.blobs or (repository, digest) in self.manifests)
                assert found is None or (found[0].read_bytes(), found[1]) == (content, len(content))
                manifest = self.storage.manifest(repository, digest)
                assert (manifest.raw if manifest else None) == self.manifests.get((repository, digest))
                subject = Digest.of(content[:1])
                wanted = sorted(str(d) for (r, d), s in self.subjects.items() if (r, s) == (repository, subject))
                assert [d["digest"] for d in self.storage.referrers(repository, subject)] == wanted
            tags = sorted(t.name for r, t in self.tags if r == repository)
            assert self.storage.tags(repository) == (tags if repository in self.known else None)
            for tag in tags:
                assert self.storage.resolve(repository, Tag(tag)) == self.tags[repository, Tag(tag)]
        assert set(self.storage.catalog()) == self.known
        assert list((self.root / "tmp").iterdir()) == []

    def teardown(self) -> None:
        self.directory.cleanup()


StorageMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
TestStorage = StorageMachine.TestCase


def test_what_a_killed_server_left_long_ago_is_removed(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.open()
    uploads = storage.uploads(Repository("a/b"))
    uploads.mkdir(parents=True)
    old, new, temporary = uploads / "old", uploads / "new", tmp_path / "tmp" / "old"
    for path in (old, new, temporary):
        path.write_bytes(b"x")
    month = time.time() - 30 * 86400
    for path in (old, temporary):
        os.utime(path, (month, month))
    storage.open()
    assert [old.exists(), new.exists(), temporary.exists()] == [False, True, False]


def test_a_damaged_blob_is_healed_by_a_push(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.open()
    digest = Digest.of(b"content")
    storage.blob_path(digest).write_bytes(b"")
    (tmp_path / "tmp" / "new").write_bytes(b"content")
    storage.adopt(Repository("a"), digest, tmp_path / "tmp" / "new")
    assert storage.blob_path(digest).read_bytes() == b"content"


def test_a_referrer_without_its_manifest_does_not_count(tmp_path: Path) -> None:
    """A kill between the two writes leaves it so."""
    storage = Storage(tmp_path)
    storage.open()
    subject = Digest.of(b"subject")
    entry = tmp_path / "repositories" / "a" / "_referrers" / "sha256" / subject.hex / f"sha256-{'0' * 64}"
    storage.replace(entry, b"{}")
    assert storage.referrers(Repository("a"), subject) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot use"):
        Storage(tmp_path / "file" / "registry").open()
