"""The builders that are compared: this engine, and those of its peers that the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import engine
from perf.daemon import Daemon, unmount_below


@dataclass(frozen=True, slots=True)
class Build:
    """One build: the context (with its Dockerfile), the name to push to, and where a registry cache is kept (or empty)."""

    context: Path
    target: str
    cache: str = ""


class Builder(ABC):
    """A builder with a state directory of its own. `can_cache`: whether it can share results through a registry. `pushes`: whether
    it makes an image at all."""

    name: str
    can_cache = True
    pushes = True

    def __init__(self, state: Path) -> None:
        self.state = state / self.name

    @abstractmethod
    def command(self, build: Build) -> list[str]:
        """The command that builds and pushes."""

    def environment(self) -> dict[str, str]:
        """What it is run with."""
        return {**os.environ, "HOME": str(self.state)}

    def daemons(self) -> tuple[int, ...]:
        """Processes that work for the command without being its children."""
        return ()

    def forget(self) -> None:
        """Makes the builder know nothing, as on a new machine. Its daemon, if it has one, runs when this returns."""
        self.close()
        self.state.mkdir(parents=True)

    def close(self) -> None:
        """Ends what runs, and removes the state."""
        unmount_below(self.state)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.state)], check=True)

    def version(self) -> str:
        """What it calls itself."""
        return ""


class Aniko(Builder):
    """This engine."""

    name = "aniko"
    flags: tuple[str, ...] = ()

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        # As pip does when it installs a package: modules are not to be compiled in every run.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(Path(engine.__file__).parent)], check=True)

    @property
    def can_cache(self) -> bool:  # type: ignore[override]
        """Whether the command has the flag."""
        said = subprocess.run([sys.executable, "-m", "engine.cli", "build", "--help"], capture_output=True, text=True)
        return "--cache-repo" in said.stdout

    def command(self, build: Build) -> list[str]:
        cache = ["--cache-repo", build.cache] if build.cache else []
        return [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(self.state), "-t", build.target, "--push",
                "--progress", "plain", *self.flags, *cache, str(build.context)]

    def version(self) -> str:
        def git(*words: str) -> str:
            return subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout.strip()

        return git("describe", "--always") + ("-dirty" if git("status", "--porcelain", "--", "engine") else "")


class AnikoWalk(Aniko):
    """This engine where nothing can be mounted: it looks through the root after every command, as kaniko does."""

    name = "aniko-walk"
    flags = ("--snapshots", "walk", "--isolation", "chroot")


class Plain(Builder):
    """No builder: the work itself, to compare with (`perf.plain`)."""

    name = "plain"
    can_cache = False
    pushes = False

    def __init__(self, state: Path, inputs: Path) -> None:
        super().__init__(state)
        self._inputs = inputs

    def command(self, build: Build) -> list[str]:
        return [sys.executable, "-m", "perf.plain", build.context.name, str(self._inputs), str(self.state / "work")]


class Buildah(Builder):
    """buildah, with overlay where it can."""

    name = "buildah"

    def command(self, build: Build) -> list[str]:
        store = f"--root {self.state}/root --runroot {self.state}/run --storage-driver overlay"
        cache = f"--cache-from {build.cache} --cache-to {build.cache}" if build.cache else ""
        return ["sh", "-ec", f"buildah {store} build --isolation chroot --layers --tls-verify=false {cache} -t {build.target} "
                             f"{build.context}\nexec buildah {store} push --tls-verify=false {build.target}"]

    def version(self) -> str:
        return subprocess.run(["buildah", "--version"], capture_output=True, text=True).stdout.split()[2]


class Docker(Builder):
    """docker's BuildKit, in a dockerd of our own that uses the host's network. The cache is the inline one, which the image has
    with it: the only one that dockerd brings without buildx."""

    name = "docker"

    def __init__(self, state: Path, client: str) -> None:
        super().__init__(state)
        self._client, self._daemon = client, Daemon("dockerd")

    def command(self, build: Build) -> list[str]:
        docker = f"{self._client} -H unix://{self.state}/docker.sock"
        cache = f"--build-arg BUILDKIT_INLINE_CACHE=1 --cache-from {build.cache}" if build.cache else ""
        share = f"\n{docker} tag {build.target} {build.cache}\n{docker} push --quiet {build.cache}" if build.cache else ""
        return ["sh", "-ec", f"{docker} build --network host --progress plain {cache} -t {build.target} {build.context}\n"
                             f"{docker} push --quiet {build.target}{share}"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DOCKER_BUILDKIT": "1"}

    def daemons(self) -> tuple[int, ...]:
        return self._daemon.pids

    def forget(self) -> None:
        super().forget()
        socket = f"unix://{self.state}/docker.sock"
        self._daemon.start(
            ["dockerd", "--data-root", f"{self.state}/data", "--exec-root", f"{self.state}/exec", "--pidfile", f"{self.state}/pid",
             "-H", socket, "--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=error"],
            self.state / "dockerd.log",
            lambda: not subprocess.run([self._client, "-H", socket, "version"], capture_output=True).returncode,
        )  # fmt: skip

    def close(self) -> None:
        self._daemon.stop()
        super().close()

    def version(self) -> str:
        return subprocess.run(["dockerd", "--version"], capture_output=True, text=True).stdout.split()[2].rstrip(",")


class BuildKit(Builder):
    """buildctl, with a buildkitd of our own."""

    name = "buildkit"

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._daemon = Daemon("buildkitd")

    @property
    def _address(self) -> str:
        return f"unix://{self.state}/buildkitd.sock"

    def command(self, build: Build) -> list[str]:
        output = f"type=image,name={build.target},push=true,registry.insecure=true"
        cache = [f"--export-cache=type=registry,ref={build.cache},mode=max,registry.insecure=true",
                 f"--import-cache=type=registry,ref={build.cache},registry.insecure=true"] if build.cache else []
        return ["buildctl", "--addr", self._address, "build", "--frontend=dockerfile.v0", f"--local=context={build.context}",
                f"--local=dockerfile={build.context}", f"--output={output}", *cache]

    def daemons(self) -> tuple[int, ...]:
        return self._daemon.pids

    def forget(self) -> None:
        super().forget()
        self._daemon.start(
            ["buildkitd", "--addr", self._address, "--root", f"{self.state}/root", "--oci-worker=true", "--containerd-worker=false",
             "--oci-worker-net=host"],
            self.state / "buildkitd.log",
            lambda: not subprocess.run(["buildctl", "--addr", self._address, "debug", "workers"], capture_output=True).returncode,
        )  # fmt: skip

    def close(self) -> None:
        self._daemon.stop()
        super().close()

    def version(self) -> str:
        return subprocess.run(["buildkitd", "--version"], capture_output=True, text=True).stdout.split()[2]


class Kaniko(Builder):
    """kaniko's executor, which takes the root directory it finds for its own: in a root and a mount namespace of its own."""

    name = "kaniko"

    def command(self, build: Build) -> list[str]:
        root = f"{self.state}/fs"
        cache = f"--cache --cache-copy-layers --cache-repo {build.cache}" if build.cache else ""
        return ["unshare", "--mount", "--pid", "--fork", "sh", "-ec",
                f"mount --bind {build.context} {root}/workspace; mount -t proc proc {root}/proc\n"
                f"exec chroot {root} /kaniko/executor --force --context dir:///workspace --insecure --insecure-pull "
                f"--destination {build.target} "
                f"--snapshot-mode full {cache}"]

    def forget(self) -> None:
        super().forget()
        for name in ("kaniko", "workspace", "proc", "etc", "tmp"):
            (self.state / "fs" / name).mkdir(parents=True)
        shutil.copy(_kaniko(), self.state / "fs/kaniko/executor")


def found(state: Path, inputs: Path) -> tuple[list[Builder], dict[str, str]]:
    """The work itself on the `inputs`, this engine, and the peers that are here; and of those that are not what they need."""
    builders: list[Builder] = [Plain(state, inputs), Aniko(state)]
    missing = {}
    if os.geteuid() == 0:
        builders.append(AnikoWalk(state))
    else:
        missing["aniko-walk"] = "root"
    if shutil.which("buildah"):
        builders.append(Buildah(state))
    else:
        missing["buildah"] = "buildah"
    client = _docker_client()
    if client and shutil.which("dockerd") and os.geteuid() == 0:
        builders.append(Docker(state, client))
    else:
        missing["docker"] = "root, dockerd, and a docker that has buildx or is older than 23"
    if shutil.which("buildctl") and shutil.which("buildkitd") and os.geteuid() == 0:
        builders.append(BuildKit(state))
    else:
        missing["buildkit"] = "root, buildctl and buildkitd"
    if _kaniko() and os.geteuid() == 0:
        builders.append(Kaniko(state))
    else:
        missing["kaniko"] = "root and kaniko's executor, as kaniko-executor in the path or as /kaniko/executor"
    return builders, missing


def _kaniko() -> str:
    """Where kaniko's executor is: in the path, or as in kaniko's image; or nothing."""
    return shutil.which("kaniko-executor") or shutil.which("/kaniko/executor") or ""


def _docker_client() -> str:
    """The first docker in the path that builds with BuildKit, or nothing. Since 23 it needs the plugin buildx for that."""
    for directory in os.get_exec_path():
        client = shutil.which("docker", path=directory)
        if not client:
            continue
        said = subprocess.run([client, "--version"], capture_output=True, text=True).stdout
        major = said.removeprefix("Docker version ").partition(".")[0]  # Docker version 20.10.24+dfsg1, build …
        if major.isdecimal() and int(major) < 23:
            return client
        if not subprocess.run([client, "buildx", "version"], capture_output=True).returncode:
            return client
    return ""
