"""The mounts of one run, made by its supervisor in its own mount namespace and forgotten with it.

Every mount is made at a staging point, a path nobody else can touch, restricted there, and moved to its target, which is
known by an open descriptor: so no name that a step controls is ever looked up outside the root.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress

from engine.errors import IsolationError
from engine.isolate import syscalls, system
from engine.isolate.base import BindMount, FileMount, Mount, OverlayRoot, Root, RunSpec, SocketMount, TmpfsMount
from engine.isolate.copies import copy_metadata, copy_tree, remove_tree
from engine.isolate.host import Host
from engine.isolate.overlay import bind, mount_overlay, mount_root
from engine.isolate.paths import Confined
from engine.isolate.supervise import Watch


class Mounts:
    """Root, devices and mounts of one run. `root` is where the root is mounted."""

    def __init__(self, host: Host) -> None:
        self._environment = host.environment
        self._disk = os.open(host.scratch, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._on_disk: list[str] = []
        self._count = 0
        syscalls.mount("tmpfs", host.scratch, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=700")
        self._stage = host.scratch
        self.root = f"{self._stage}/root"
        os.mkdir(self.root)
        self._inside: Confined | None = None

    def make(self, spec: RunSpec, watch: Watch) -> None:
        """Mounts everything but /proc (only a process of the new pid namespace can), in order; raises `OSError` or
        `IsolationError`."""
        mount_root(spec.root, self.root, self._environment.xattrs)
        inside = self._inside = Confined(self.root)
        os.close(inside.own_directory("proc"))
        for name, mount_system in (("dev", system.mount_dev), ("sys", system.mount_sys)):
            target = inside.own_directory(name)
            point = self._point(directory=True)
            if mount_system(point):
                self._move(point, target)
            else:
                os.close(target)
        os.close(inside.open_or_make(spec.cwd, directory=True, keep=True))
        for file, text in (("/etc/hosts", spec.hosts), ("/etc/resolv.conf", spec.resolv_conf)):
            if text is not None:
                self._mount(FileMount(file, text.encode(), 0o644), inside, watch)
        for mount in spec.mounts:
            try:
                self._mount(mount, inside, watch)
            except OSError as error:
                raise IsolationError(f"mount at {mount.target}: {error}") from error

    def remove(self) -> None:
        """Detaches everything, and takes back the mount points that were created for it. The root is there until `close`."""
        with suppress(OSError):
            syscalls.unmount(self.root)
        if self._inside is not None:
            self._inside.remove_made()
        with suppress(OSError):
            syscalls.unmount(self._stage)
        for name in self._on_disk:
            with suppress(OSError):
                remove_tree(f"{syscalls.at(self._disk)}/{name}")
        os.close(self._disk)

    def close(self) -> None:
        """Lets go of the root, which the kernel takes down before this returns."""
        if self._inside is not None:
            self._inside.close()

    def _mount(self, mount: Mount, inside: Confined, watch: Watch) -> None:
        point = self._point(not isinstance(mount, (FileMount, SocketMount)))
        match mount:
            case BindMount():
                point = self._bind(mount)
            case TmpfsMount():
                syscalls.mount("tmpfs", point, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV,
                               f"size={mount.size}" if mount.size else None)
            case FileMount():
                bind(self._file(mount), point, syscalls.MOUNT_ATTR_RDONLY)
            case SocketMount():
                bind(self._socket(mount, watch), point)
        self._move(point, inside.open_or_make(mount.target, directory=os.path.isdir(point)))

    @staticmethod
    def _move(point: str, target: int) -> None:
        """Moves what is mounted at a staging point onto an open directory or file, and closes that."""
        try:
            syscalls.mount(point, syscalls.at(target), None, syscalls.MS_MOVE)
        finally:
            os.close(target)

    def _point(self, directory: bool) -> str:
        """A new staging point."""
        self._count += 1
        path = f"{self._stage}/{self._count}"
        if directory:
            os.mkdir(path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return path

    def _file(self, mount: FileMount) -> str:
        path = self._point(directory=False)
        with open(path, "wb") as file:
            file.write(mount.content)
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, mount.mode)
        return path

    def _socket(self, mount: SocketMount, watch: Watch) -> str:
        path = self._point(directory=False)
        os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stage = os.open(self._stage, os.O_PATH | os.O_CLOEXEC)
        listener.bind(f"{syscalls.at(stage)}/{os.path.basename(path)}")  # a real path may be too long for a socket's name
        os.close(stage)
        os.chown(path, mount.uid, mount.gid)
        os.chmod(path, mount.mode)
        listener.listen(16)
        watch.relay(listener, mount.socket)
        return path

    def _bind(self, mount: BindMount) -> str:
        """Binds a source to a new staging point, which it returns."""
        attributes = syscalls.MOUNT_ATTR_NODEV | (syscalls.MOUNT_ATTR_RDONLY if mount.readonly else 0)
        discard = mount.discard_writes and not mount.readonly
        overlay = discard and self._environment.snapshots == "overlay"
        origin = Confined(self._origin(mount.origin, overlay))
        try:
            source = origin.open(mount.source)
        except OSError as error:
            raise IsolationError(f"mount at {mount.target}: {mount.source or '/'}: {(error.strerror or '').lower()}") from error
        finally:
            origin.close()
        is_dir = stat.S_ISDIR(os.stat(syscalls.at(source)).st_mode)
        point = self._point(is_dir)
        if discard and not (overlay and not isinstance(mount.origin, str)):
            self._discarding(source, is_dir, overlay, point)
        else:
            bind(syscalls.at(source), point, attributes)
        os.close(source)
        return point

    def _origin(self, origin: str | Root, writable: bool) -> str:
        """A path under which an origin's files are."""
        if isinstance(origin, str):
            return origin
        if isinstance(origin, OverlayRoot) and origin.upper is None and writable:
            upper, work = self._disk_directories()
            copy_metadata(origin.lower[0], upper)
            origin = OverlayRoot(origin.lower, upper, work)
        point = self._point(directory=True)
        mount_root(origin, point, self._environment.xattrs)
        return point

    def _discarding(self, source: int, is_dir: bool, overlay: bool, point: str) -> None:
        """Makes the staging point show a source so that what is written does not reach it."""
        if is_dir and overlay:
            upper, work = self._disk_directories()
            copy_metadata(syscalls.at(source), upper)
            mount_overlay((syscalls.at(source),), upper, work, point, self._environment.xattrs)
            return
        upper, _ = self._disk_directories()
        copy_tree(syscalls.at(source), f"{upper}/copy")
        bind(f"{upper}/copy", point, syscalls.MOUNT_ATTR_NODEV)

    def _disk_directories(self) -> tuple[str, str]:
        """Two new empty directories on disk, for an overlay's changes."""
        name = f"run-{os.getpid()}-{len(self._on_disk)}"
        path = f"{syscalls.at(self._disk)}/{name}"
        os.mkdir(path, 0o700)
        self._on_disk.append(name)
        os.mkdir(f"{path}/upper")
        os.mkdir(f"{path}/work")
        return f"{path}/upper", f"{path}/work"
