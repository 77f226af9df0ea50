"""The builders that are compared: this engine, and those of its peers that the machine has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Build:
    """One build: the context (with its Dockerfile), the name to push to, and where a registry cache is kept (or empty)."""

    context: Path
    target: str
    cache: str = ""


class Builder(ABC):
    """A builder with a state directory of its own. `can_cache`: whether it can share results through a registry."""

    name: str
    can_cache = True

    def __init__(self, state: Path) -> None:
        self.state = state / self.name

    @abstractmethod
    def command(self, build: Build) -> list[str]:
        """The command that builds and pushes."""

    def environment(self) -> dict[str, str]:
        """What it is run with."""
        return {**os.environ, "HOME": str(self.state)}

    def forget(self) -> None:
        """Makes the builder know nothing, as on a new machine."""
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.state)], check=True)
        self.state.mkdir(parents=True)

    def version(self) -> str:
        """What it calls itself."""
        return ""


class Aniko(Builder):
    """This engine."""

    name = "aniko"

    @property
    def can_cache(self) -> bool:  # type: ignore[override]
        """Whether the command has the flag."""
        said = subprocess.run([sys.executable, "-m", "engine.cli", "build", "--help"], capture_output=True, text=True)
        return "--cache-repo" in said.stdout

    def command(self, build: Build) -> list[str]:
        cache = ["--cache-repo", build.cache] if build.cache else []
        return [sys.executable, "-m", "engine.cli", "build", "--state-dir", str(self.state), "-t", build.target, "--push",
                "--progress", "plain", *cache, str(build.context)]

    def version(self) -> str:
        said = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent)
        return said.stdout.strip()


class Buildah(Builder):
    """buildah, with overlay where it can."""

    name = "buildah"

    def command(self, build: Build) -> list[str]:
        store = f"--root {self.state}/root --runroot {self.state}/run --storage-driver overlay"
        cache = f"--cache-from {build.cache} --cache-to {build.cache}" if build.cache else ""
        return ["sh", "-ec", f"buildah {store} build --isolation chroot --layers --tls-verify=false {cache} -t {build.target} "
                             f"{build.context}\nexec buildah {store} push --tls-verify=false {build.target}"]

    def forget(self) -> None:
        subprocess.run(["umount", f"{self.state}/root/overlay"], stderr=subprocess.DEVNULL, check=False)
        super().forget()

    def version(self) -> str:
        return subprocess.run(["buildah", "--version"], capture_output=True, text=True).stdout.split()[2]


class BuildKit(Builder):
    """buildctl with a buildkitd that is running."""

    name = "buildkit"

    def command(self, build: Build) -> list[str]:
        output = f"type=image,name={build.target},push=true,registry.insecure=true"
        cache = [f"--export-cache=type=registry,ref={build.cache},mode=max,registry.insecure=true",
                 f"--import-cache=type=registry,ref={build.cache},registry.insecure=true"] if build.cache else []
        return ["buildctl", "build", "--frontend=dockerfile.v0", f"--local=context={build.context}",
                f"--local=dockerfile={build.context}", f"--output={output}", *cache]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def forget(self) -> None:
        subprocess.run(["buildctl", "prune", "--all"], stdout=subprocess.DEVNULL, check=True)


class Kaniko(Builder):
    """kaniko's executor, which takes the root directory it finds for its own: in a root and a mount namespace of its own."""

    name = "kaniko"

    def command(self, build: Build) -> list[str]:
        root = f"{self.state}/fs"
        cache = f"--cache --cache-copy-layers --cache-repo {build.cache}" if build.cache else ""
        return ["unshare", "--mount", "--pid", "--fork", "sh", "-ec",
                f"mount --bind {build.context} {root}/workspace; mount -t proc proc {root}/proc\n"
                f"exec chroot {root} /kaniko/executor --force --context dir:///workspace --insecure --destination {build.target} "
                f"--snapshot-mode full {cache}"]

    def forget(self) -> None:
        super().forget()
        for name in ("kaniko", "workspace", "proc", "etc", "tmp"):
            (self.state / "fs" / name).mkdir(parents=True)
        shutil.copy(str(shutil.which("kaniko-executor")), self.state / "fs/kaniko/executor")


def found(state: Path) -> list[Builder]:
    """This engine and the peers that are here."""
    builders: list[Builder] = [Aniko(state)]
    if shutil.which("buildah"):
        builders.append(Buildah(state))
    if shutil.which("buildctl") and not subprocess.run(["buildctl", "debug", "workers"], capture_output=True).returncode:
        builders.append(BuildKit(state))
    if shutil.which("kaniko-executor"):
        builders.append(Kaniko(state))
    return builders
