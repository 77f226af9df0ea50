"""Images as a build hands them to outputs, made of small real layers."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.content.store import DirectoryStore
from engine.image.config import History, ImageConfig, RuntimeConfig
from engine.image.descriptor import OCI_LAYER_GZIP, Descriptor
from engine.image.digest import Digest
from engine.image.manifest import make_index, make_manifest
from engine.image.platform import Platform
from engine.image.reference import Reference
from engine.layer.base import Layer
from engine.output.base import Built, BuiltImage


def tar(members: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in ({"mode": 0o644, "mtime": 1700000000} | fields).items():
        setattr(info, key, value)
    return info


class Maker:
    """Makes layers, images and what a build hands over."""

    def __init__(self, content: DirectoryStore) -> None:
        self.content = content

    def layer(self, members: Sequence[tuple[tarfile.TarInfo, bytes]], *, stored: bool = True) -> tuple[Layer, bytes]:
        """A layer and its blob, which is put into the content store unless told otherwise."""
        raw = tar(members)
        blob = gzip.compress(raw, 1, mtime=0)
        if stored:
            self.content.put(blob)
        return Layer(Digest.of(raw), Descriptor(OCI_LAYER_GZIP, Digest.of(blob), len(blob))), blob

    def file_layer(self, name: str, seed: int, size: int = 100_000, *, stored: bool = True) -> tuple[Layer, bytes]:
        """A layer with one file of bytes that do not compress."""
        return self.layer([(member(name), random.Random(seed).randbytes(size))], stored=stored)

    def image(self, layers: Sequence[Layer], platform: Platform | None = None,
              origins: Sequence[Reference | None] = ()) -> BuiltImage:
        platform = platform or Platform("linux", "amd64")
        config = ImageConfig(platform=platform, config=RuntimeConfig(cmd=("/file",)), diff_ids=tuple(x.diff_id for x in layers),
                             history=tuple(History("made", "2024-01-01T00:00:00Z") for _ in layers))
        raw = config.encode()
        manifest = make_manifest(Descriptor("application/vnd.oci.image.config.v1+json", Digest.of(raw), len(raw)),
                                 [layer.blob for layer in layers])
        return BuiltImage(platform, manifest, config, raw, tuple(layers), tuple(origins) or (None,) * len(layers))

    def built(self, *names: str, layers: Sequence[Layer] = (), origins: Sequence[Reference | None] = ()) -> Built:
        """One image of two layers, or of those given."""
        made = layers or [self.file_layer("file", 1)[0], self.file_layer("other", 2)[0]]
        return Built((self.image(made, origins=origins),), None, tuple(map(Reference.parse, names)))

    def indexed(self, *names: str) -> Built:
        """Images for two platforms that share a layer, under an index."""
        shared = self.file_layer("shared", 3)[0]
        images = tuple(self.image([shared, self.file_layer(arch, n)[0]], Platform("linux", arch))
                       for n, arch in enumerate(("amd64", "arm64")))  # fmt: skip
        entries = [Descriptor(i.manifest.media_type, i.manifest.descriptor.digest, len(i.manifest.raw), platform=i.platform)
                   for i in images]
        return Built(images, make_index(entries), tuple(map(Reference.parse, names)))


@pytest.fixture
def content(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "state")


@pytest.fixture
def make(content: DirectoryStore) -> Maker:
    return Maker(content)


async def no_fetch(layer: Layer, origin: Reference | None) -> None:
    raise AssertionError(f"nobody should fetch {layer} from {origin}")


@pytest.fixture
def refuse_fetch() -> Callable[[Layer, Reference | None], Any]:
    """A fetch that must not be called."""
    return no_fetch


def verify_blobs(directory: Path) -> set[str]:
    """The names of all blobs of a layout, each of which has its digest."""
    names = set()
    for path in (directory / "blobs").glob("*/*"):
        assert hashlib.new(path.parent.name, path.read_bytes()).hexdigest() == path.name
        names.add(path.name)
    return names


@pytest.fixture
def blobs_in() -> Callable[[Path], set[str]]:
    return verify_blobs
