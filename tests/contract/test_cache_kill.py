"""Processes that write blobs and records are killed at random moments; what they leave is right and can be used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import anyio

from engine.cache.local import LocalCache
from engine.content.leases import Leases
from engine.content.scratch import Scratch
from engine.content.store import DirectoryStore
from engine.image.digest import Digest

KILLER = """
import os, random, signal, sqlite3, sys, time, traceback
from pathlib import Path
import anyio
from engine.cache.base import Record
from engine.cache.flight import FileLocks
from engine.cache.local import LocalCache
from engine.content.leases import Leases
from engine.content.scratch import Scratch
from engine.content.store import DirectoryStore
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.layer.base import Layer

async def main(here):
    store, number = DirectoryStore(here), 0
    cache, locks, scratch = LocalCache(here / "cache", store), FileLocks(here / "locks"), Scratch(here / "tmp")
    os.write(1, b"ready\\n")
    async with Leases(here / "leases").hold() as lease:
        while True:
            number = (number + 1) % 40
            key = Digest.of(b"key %d" % number)
            async with locks.hold(str(key)):
                await lease.protect([("record", f"{key} {os.getpid()} {number}")])
                scratch.file()
                if await cache.get(key):
                    store.remove((await cache.get(key)).layer.blob.digest)
                    continue
                content = b"%d " % number * 5000
                with store.writer() as writer:
                    for start in range(0, len(content), 1000):
                        writer.write(content[start:start + 1000])
                    digest = writer.commit()
                layer = Layer(digest, Descriptor(OCI_LAYER_GZIP, digest, len(content)))
                await cache.put(Record(key, layer, 1.0, "RUN x", {"number": str(number)}))

def begin(here):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        os.close(reader)
        try:
            anyio.run(main, here)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    said = os.read(reader, 6)
    assert said == b"ready\\n", said
    os.close(reader)
    return child

def end(child):
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status), "it ended by itself"

here, rounds, at_once, dice = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[4]))
alive = []
anyio.run(anyio.sleep, 0)  # imports what is imported late, so that the children need not
for _ in range(rounds):
    alive.append(begin(here))
    if len(alive) == at_once:
        time.sleep(dice.uniform(0, 0.04))
        end(alive.pop(0))
for child in alive:
    end(child)
"""
"""A process with everything imported forks those that write, and kills each some milliseconds after it began."""


async def remove(path: Path) -> None:
    for inner in path.iterdir():
        inner.unlink()
    path.rmdir()


async def test_a_state_directory_survives_kills_at_random_moments(tmp_path: Path) -> None:
    await anyio.run_process([sys.executable, "-c", KILLER, str(tmp_path), "120", "3", "4"], stderr=None)
    store = DirectoryStore(tmp_path)
    for digest, size, _ in store.blobs():
        data = store.get(digest)
        assert data is not None and len(data) == size, "a blob has its name and not its content"
    cache = LocalCache(tmp_path / "cache", store)
    usages = {usage.key: usage for usage in cache.usage()}
    assert usages, "the processes were killed before they wrote anything"
    for number in range(40):
        record = await cache.get(Digest.of(b"key %d" % number))
        if record is not None:
            assert record.layer and record.ingredients == {"number": str(number)}
            assert store.get(record.layer.blob.digest) == b"%d " % number * 5000
    await cache.flush()
    for usage in cache.usage():
        assert usage.blob and store.size(usage.blob) == usage.size
    await cache.aclose()
    store.reclaim()
    await Scratch(tmp_path / "tmp").reclaim(remove)
    async with Leases(tmp_path / "leases").exclusive() as leased:
        assert not leased.names
    assert os.listdir(tmp_path / "ingest") == os.listdir(tmp_path / "tmp") == []
    assert os.listdir(tmp_path / "leases") == ["gate"]
    assert sorted(p.name for p in (tmp_path / "cache").glob("*.db")) == ["records-v1.0.db"]
