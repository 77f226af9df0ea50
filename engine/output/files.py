"""Writes an image's files, as an archive or as a directory that other images may be in already."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread
from msgspec import Struct

from engine.content.base import ContentStore
from engine.errors import StorageError
from engine.output.archive import Archive, copy
from engine.output.base import Built
from engine.output.blobs import Fetch, Progress, documents_of, fetch_missing, layers_of
from engine.output.layout import INDEX_FILE, LAYOUT, LAYOUT_FILE, blob_name, index_json
from engine.output.place import Meter, Place
from engine.output.publish import is_free, new_directory, new_file, replace, write_all, writing

Page = Callable[[Built, bytes | None], bytes]
"""A file that lists images, made of the image and what the file said before."""


class _Image(Struct, frozen=True):
    """An image as files: blobs by name, with their bytes or where they lie and how many they are, and the pages that list it."""

    blobs: Mapping[str, bytes | tuple[Path, int]]
    pages: Mapping[str, Page]
    built: Built

    @property
    def size(self) -> int:
        return sum(len(blob) if isinstance(blob, bytes) else blob[1] for blob in self.blobs.values())


async def write_layout(built: Built, place: Place, content: ContentStore, fetch: Fetch, pages: Mapping[str, Page],
                       progress: Progress | None) -> str:
    """Writes an OCI layout with `pages` besides its index; returns where it is. A directory that is a layout already gets the
    image added. Raises `StorageError`, what `fetch` raises, and `ContentError` for a broken layout or blob."""
    layers = layers_of(built, content)
    await fetch_missing(layers, content, fetch)
    blobs: dict[str, bytes | tuple[Path, int]] = {blob_name(d.digest): raw for d, raw in documents_of(built)}
    blobs |= {blob_name(b.descriptor.digest): (b.path, b.descriptor.size) for b in layers}
    image = _Image(dict(sorted(blobs.items())), {INDEX_FILE: index_json, **pages}, built)
    await to_thread.run_sync(_write, image, place, Meter(str(place), image.size, progress))
    return str(place)


def _write(image: _Image, place: Place, meter: Meter) -> None:
    with writing(str(place)):
        if not isinstance(place.destination, Path):
            _archive(image, place.destination, meter)
        elif place.archive:
            with new_file(place.destination) as file:
                _archive(image, file, meter)
        elif is_free(place.destination):
            with new_directory(place.destination) as directory:
                _fill(image, directory, meter)
                _list_in(image, directory)
        elif (place.destination / LAYOUT_FILE).exists():
            with _locked(place.destination):
                _fill(image, place.destination, meter)
                _list_in(image, place.destination)
        else:
            raise StorageError(f"cannot write {place}: the directory is not empty and no OCI layout",
                               hint="name a new directory, or one that an image was written to before")


def _archive(image: _Image, file: BinaryIO, meter: Meter) -> None:
    archive = Archive(file, meter.moved)
    members: dict[str, bytes | tuple[Path, int] | None] = dict(image.blobs)
    members |= {name + "/": None for path in image.blobs for name in ("blobs", path.rpartition("/")[0])}
    members |= {name: page(image.built, None) for name, page in image.pages.items()} | {LAYOUT_FILE: LAYOUT}
    for name, content in sorted(members.items()):
        if content is None:
            archive.directory(name)
        elif isinstance(content, bytes):
            archive.data(name, content)
        else:
            archive.file(name, *content)
    archive.close()
    file.flush()


def _fill(image: _Image, directory: Path, meter: Meter) -> None:
    """Writes the blobs that are not there. They pass through the layout's top directory, for only blobs belong into the others."""
    for name, content in image.blobs.items():
        target = directory / name
        size = len(content) if isinstance(content, bytes) else content[1]
        if _size(target) == size:
            meter.moved(size)
            continue
        with new_file(target, by_way_of=directory) as file:
            if isinstance(content, bytes):
                _put(file, meter, content)
            else:
                copy(*content, partial(_put, file, meter))


def _put(file: BinaryIO, meter: Meter, data: bytes | memoryview) -> None:
    write_all(file, data)
    meter.moved(len(data))


def _list_in(image: _Image, directory: Path) -> None:
    """Writes the lists, the index last: before it says so the image is not there."""
    replace(directory / LAYOUT_FILE, LAYOUT)
    for name, page in sorted(image.pages.items(), key=lambda item: item[0] == INDEX_FILE):
        path = directory / name
        replace(path, page(image.built, path.read_bytes() if path.exists() else None))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time: the lists are read, changed and written. The lock goes with the process."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
