"""Blobs that are read while they are fetched."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import pytest

from engine.content.store import DirectoryStore
from engine.errors import ContentError, RegistryError
from engine.image.descriptor import Descriptor
from engine.image.digest import Digest
from engine.image.reference import Reference
from engine.layer.arriving import Arriving, BlobFile
from engine.solve.state import Blobs, GoneError

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 4
HALF = len(DATA) // 2
BLOB = Descriptor("application/octet-stream", Digest("sha256", hashlib.sha256(DATA).hexdigest()), len(DATA))
HERE = Reference.parse("registry.test/base:1")


class Nowhere:
    """Remembers nothing of where blobs lie."""

    def origins(self, blob: Digest) -> list[Reference]:
        return []

    async def missed(self, repository: Reference, blobs: object) -> None:
        pass


class Registry:
    """Gives the first half, waits, and then gives the second half, or fails."""

    def __init__(self, *, breaks: bool = False) -> None:
        self.go_on = anyio.Event()
        self.breaks = breaks

    async def blob(self, reference: Reference, descriptor: Descriptor) -> AsyncGenerator[bytes, None]:
        yield DATA[:HALF]
        await self.go_on.wait()
        if self.breaks:
            raise RegistryError("the registry broke off")
        yield DATA[HALF:]


@pytest.fixture
def blobs(tmp_path: Path) -> Callable[[Registry], Blobs]:
    def make(registry: Registry) -> Blobs:
        made = Blobs(DirectoryStore(tmp_path / "content"), lambda _: registry, Nowhere(), tmp_path)  # type: ignore[arg-type,return-value]
        made.remember(HERE, BLOB)
        return made

    return make


def there(directory: Path) -> Path:
    """Where the blob lies in the end."""
    return DirectoryStore(directory / "content").path(BLOB.digest)


async def read(path: Path, arriving: Arriving | None, size: int) -> bytes:
    def some() -> bytes:
        file = BlobFile(str(path), arriving)
        try:
            out = b""
            while len(out) < size and (piece := file.read(size - len(out))):
                out += piece
            return out
        finally:
            file.close()

    return await anyio.to_thread.run_sync(some)


async def test_a_blob_is_read_before_all_of_it_is_there(blobs: Callable[[Registry], Blobs], tmp_path: Path) -> None:
    registry, seen = Registry(), []

    async def use(arriving: Arriving | None) -> None:
        assert arriving is not None
        seen.append(await read(there(tmp_path), arriving, HALF))
        registry.go_on.set()  # which would never come if the whole blob were waited for
        seen.append(await read(there(tmp_path), arriving, len(DATA)))

    with anyio.fail_after(20):
        await blobs(registry).read(BLOB, use)
    assert seen == [DATA[:HALF], DATA]
    assert [path.name for path in tmp_path.iterdir()] == ["content"]


async def test_a_blob_that_is_there_is_read_as_a_whole(blobs: Callable[[Registry], Blobs], tmp_path: Path) -> None:
    DirectoryStore(tmp_path / "content").put(DATA)
    used: list[Arriving | None] = []

    async def use(arriving: Arriving | None) -> None:
        used.append(arriving)

    await blobs(Registry()).read(BLOB, use)
    assert used == [None]


async def test_the_failure_of_the_download_is_what_is_told(blobs: Callable[[Registry], Blobs], tmp_path: Path) -> None:
    registry = Registry(breaks=True)

    async def use(arriving: Arriving | None) -> None:
        registry.go_on.set()
        assert await read(there(tmp_path), arriving, len(DATA)) == DATA[:HALF]
        raise ContentError("cut short")

    with pytest.raises(RegistryError, match="broke off"), anyio.fail_after(20):
        await blobs(registry).read(BLOB, use)


async def test_what_could_not_be_read_on_its_way_is_read_again(blobs: Callable[[Registry], Blobs], tmp_path: Path) -> None:
    registry, used = Registry(), []
    registry.go_on.set()

    async def use(arriving: Arriving | None) -> None:
        used.append(arriving is not None)
        if arriving is not None:
            raise ContentError("cut short")

    with anyio.fail_after(20):
        await blobs(registry).read(BLOB, use)
    assert used == [True, False]


async def test_other_errors_come_out_alone(blobs: Callable[[Registry], Blobs]) -> None:
    registry = Registry()
    registry.go_on.set()

    async def use(arriving: Arriving | None) -> None:
        raise RegistryError("something else")

    with pytest.raises(RegistryError, match="something else"), anyio.fail_after(20):
        await blobs(registry).read(BLOB, use)


@pytest.mark.parametrize(("is_base", "error"), [(True, ContentError), (False, GoneError)])
async def test_a_layer_that_holds_something_else(is_base: bool, error: type[ContentError], tmp_path: Path) -> None:
    DirectoryStore(tmp_path / "content").put(DATA)
    blobs = Blobs(DirectoryStore(tmp_path / "content"), lambda _: Registry(), Nowhere(), tmp_path)  # type: ignore[arg-type,return-value]
    if is_base:
        blobs.remember(HERE, BLOB)

    async def use(arriving: Arriving | None) -> None:
        raise ContentError("not what the image says")

    with pytest.raises(ContentError) as raised:
        await blobs.read(BLOB, use)
    assert type(raised.value) is error
