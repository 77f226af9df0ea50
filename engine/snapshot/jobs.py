"""What the snapshotters have done in worker processes: everything that makes, moves or removes files of images."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from engine.content.faults import storing
from engine.image.digest import Digest
from engine.isolate.base import IdMap
from engine.isolate.copies import copy_metadata, remove_tree
from engine.isolate.stage import recover
from engine.layer.apply import apply_changes, scan, unpack
from engine.layer.arriving import Arriving
from engine.layer.changes import Changes
from engine.layer.entries import Change, Entry
from engine.layer.index import IndexStore
from engine.layer.unpack import unpack_changes
from engine.snapshot.base import Landing, Needs, Unnamed


class UnpackTask(Struct, frozen=True):
    """A layer to unpack. `index_dir` is an `IndexStore`'s."""

    blob: str
    diff_id: Digest
    index_dir: str
    landing: Landing
    arriving: Arriving | None = None


def unpack_layer(task: UnpackTask) -> None:
    """Unpacks a layer and stores its index, unless another process has just done so."""
    landing, name = task.landing, task.diff_id.hex
    lock_path = f"{landing.store}/locks/{name}"
    lock = os.open(lock_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.isdir(f"{landing.store}/diff/{name}"):
            if not IndexStore(Path(task.index_dir)).path(task.diff_id).exists():
                scan(task.blob, str(task.diff_id), task.index_dir)
            return
        os.chmod(landing.scratch, 0o755)
        done = unpack(task.blob, landing.scratch, style=landing.style, owners=landing.ids.kind != "none", ids=landing.ids,
                      diff_id=str(task.diff_id), index_dir=task.index_dir, arriving=task.arriving)
        _publish_layer(landing, task.diff_id, Needs(done.implicit, done.foreign_links))
    finally:
        with suppress(OSError):
            os.unlink(lock_path)
        os.close(lock)
        remove_tree(landing.scratch)


def unpack_changed(landing: Landing, changes: Changes, latest_mtime: int | None) -> Unnamed:
    """Makes the directory of a layer of the changes that it is of."""
    with storing(Path(landing.scratch)):
        os.chmod(landing.scratch, 0o755)
        contents, digests = unpack_changes(changes, landing.scratch, style=landing.style, owners=landing.ids.kind != "none",
                                           ids=landing.ids, latest_mtime=latest_mtime)  # fmt: skip
    return Unnamed(landing, Needs(tuple(contents.implicit), contents.foreign()), digests)


def publish_unnamed(unnamed: Unnamed, diff_id: Digest) -> None:
    """Publishes what `unpack_changed` has made; its scratch directory may be left."""
    with storing(Path(unnamed.landing.store)):
        _publish_layer(unnamed.landing, diff_id, unnamed.needs)


def _publish_layer(landing: Landing, diff_id: Digest, needs: Needs) -> None:
    """Gives a layer's finished directory its name, after what is to be known of it is written down."""
    if (needs.implicit or needs.links) and landing.style != "plain":  # where nothing is stacked on anything
        with open(f"{landing.scratch}.needs", "wb") as file:
            pickle.dump(needs, file)
        os.rename(f"{landing.scratch}.needs", f"{landing.store}/needs/{diff_id.hex}")
    publish(landing.scratch, f"{landing.store}/diff/{diff_id.hex}")


def read_needs(path: Path) -> Needs:
    """What has been noted of a layer that was published."""
    with storing(path), open(path, "rb") as file:
        needs: Needs = pickle.load(file)
    return needs


def publish(directory: str, final: str) -> None:
    """Gives a finished directory its name, unless that is taken: then another process was first, and this one is left."""
    try:
        os.rename(directory, final)
    except OSError:
        if not os.path.isdir(final):
            raise


def make_directory(changes: Sequence[Change], scratch: str, final: str, ids: IdMap) -> None:
    """Publishes a new directory with these entries."""
    with storing(Path(final)):
        os.chmod(scratch, 0o755)
        apply_changes(changes, scratch, owners=ids.kind != "none", ids=ids)
        publish(scratch, final)
        remove_tree(scratch)


def move_layer(source: str, scratch: str, final: str, moves: Mapping[bytes, bytes]) -> None:
    """Publishes a copy of a layer, by hard links, where what is in some directories is in others instead."""

    def take(directory: bytes, path: bytes, place: bytes) -> None:
        with os.scandir(directory) as listing:
            for each in listing:
                at = path + b"/" + each.name if path else each.name
                to = moves.get(at) or (place + b"/" + each.name if place else each.name)
                target = os.path.join(os.fsencode(scratch), to)
                if each.is_dir(follow_symlinks=False):
                    os.makedirs(target, 0o755, exist_ok=True)
                    take(each.path, at, to)
                    copy_metadata(each.path, target)
                    _copy_marks(each.path, target)
                else:
                    remove_tree(target)
                    os.link(each.path, target, follow_symlinks=False)

    with storing(Path(final)):
        os.chmod(scratch, 0o755)
        take(os.fsencode(source), b"", b"")
        publish(scratch, final)
        remove_tree(scratch)


def _copy_marks(source: bytes, target: bytes) -> None:
    """Overlayfs' own attributes, which `copy_metadata` leaves out."""
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        with suppress(OSError):
            os.setxattr(target, name, os.getxattr(source, name))


def make_active(directory: str, names: Sequence[str], root: Entry, ids: IdMap) -> None:
    """Makes the directories of an active snapshot; the first is given the metadata of the root directory below."""
    with storing(Path(directory)):
        for name in names:
            os.mkdir(f"{directory}/{name}", 0o755)
        apply_changes([Change(root)], f"{directory}/{names[0]}", owners=ids.kind != "none", ids=ids)


def keep_upper(upper: str, final: str, directory: str) -> None:
    """Publishes the upper directory of an active snapshot and removes the rest of it."""
    with storing(Path(final)):
        publish(upper, final)
        remove_root(directory)


def remove_root(directory: str) -> None:
    """Removes an active snapshot, or a whole scratch space of a process that died; first it saves caches' files from it."""
    for at, names, _ in os.walk(directory):
        depth = at.count("/") - directory.count("/")
        for name in names:
            if name.endswith(".aside"):
                recover(os.path.join(at, name.removesuffix(".aside")))
        if depth >= 2:
            names.clear()
    remove_tree(directory)


