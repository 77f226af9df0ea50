"""Checking out a git repository with the git command, for ADD and for contexts.

The command runs shut off: no configuration of the user or the system, no hooks, no prompts, no local protocols, no
credentials but an SSH agent's and a login that is given for the repository. What the repository holds is only ever read.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from engine.context.directory import DirectoryTree
from engine.context.git_login import TOKEN, Login, Secrets, login_for, without_login
from engine.context.remote import GitUrl
from engine.context.view import remove_tree
from engine.errors import CopyError
from engine.layer.resolve import resolve

_PASSED = ("SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPTIONS = ("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.symlinks=true", "core.autocrlf=false", "gc.auto=0",
            "maintenance.auto=false", "protocol.version=2", "submodule.recurse=false", "credential.helper=")
_REFUSED = ("could not read Username", "could not read Password", "Authentication failed", "error: 401", "error: 403")
_FETCHED = "refs/engine/fetched"
_OUTPUT_LIMIT = 64 << 20


class Checkout(Struct, frozen=True):
    """A checked out commit: the directory that was meant, and the commit's id."""

    root: Path
    commit: str


async def checkout(url: GitUrl, into: Path, *, keep_git_dir: bool = False, checksum: str = "",
                   environment: Mapping[str, str] | None = None, secrets: Secrets | None = None) -> Checkout:  # fmt: skip
    """Checks a repository out below the directory `into`. Files are 0644 or 0755.

    `checksum` is the commit (or how it begins) that must come out, as the URL's own. Of `environment` the path, proxies,
    certificates and the SSH agent count. Logins come from the `secrets` that `git_login` names. Raises `CopyError`, `SecretError`.
    """
    if url.keep_git_dir is not None:
        keep_git_dir = url.keep_git_dir
    expected = url.checksum or checksum
    if url.checksum and checksum and url.checksum != checksum:
        raise CopyError(f'checksum mismatch "{checksum}" != "{url.checksum}"')
    login = login_for(url.remote, secrets or (lambda _: None))
    url = replace(url, remote=without_login(url.remote))
    git = _Git(into, environment or {}, login)
    commit = await git.fetch(url)
    if expected and not commit.startswith(expected):
        raise CopyError(f"expected checksum to match {expected}, got {commit}", hint=f"{url.remote} has another commit there")
    await git.run("checkout", "--quiet", "--force", "--detach", commit)
    if url.submodules and (git.tree / ".gitmodules").is_file():
        await git.run("submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
    time = int(await git.run("show", "--no-patch", "--format=%ct", commit)) if url.commit_times else None
    return Checkout(await anyio.to_thread.run_sync(_finish, git.tree, url, keep_git_dir, time), commit)


class _Git:
    """The git command, in one new repository."""

    def __init__(self, into: Path, environment: Mapping[str, str], login: Login | None) -> None:
        self.tree = into / "checkout"
        self._into = into
        self._login = login
        self._environment = {
            "PATH": environment.get("PATH", _PATH), "HOME": str(into), "LC_ALL": "C", "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "/bin/false", "SSH_ASKPASS": "/bin/false",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes", "GIT_ALLOW_PROTOCOL": "http:https:ssh:git", "GIT_OPTIONAL_LOCKS": "0",
            "GIT_LFS_SKIP_SMUDGE": "1", "GIT_NO_REPLACE_OBJECTS": "1",
        } | {name: value for name, value in environment.items() if name in _PASSED or name.lower() in _PROXIES}  # fmt: skip
        self._environment |= login.environment if login else {}

    async def fetch(self, url: GitUrl) -> str:
        """Fetches what the URL means and as little else as the server allows; returns the commit."""
        await self._git("init", "--quiet", "--initial-branch=main", "--template=", str(self.tree))
        await self.run("config", "remote.origin.url", url.remote)
        ref = url.ref if url.ref.startswith("refs/") or url.is_commit else await self._find(url)
        if not ref:
            return await self._fetch_all(url)
        try:
            await self._fetch_shallow(url, ref)
        except CopyError:
            if not url.is_commit:
                raise
            return await self._fetch_all(url)
        return await self._commit(url, _FETCHED)

    async def _find(self, url: GitUrl) -> str:
        """The full name of the ref that is meant: branches come before tags. Empty if it may be a part of a commit id."""
        if not url.ref:
            return "HEAD"
        names = [f"refs/heads/{url.ref}", f"refs/tags/{url.ref}", f"refs/{url.ref}", url.ref]
        listed = await self._git("ls-remote", "--end-of-options", url.remote, *names)
        there = {line.partition("\t")[2] for line in listed.splitlines()}
        for name in names:
            if name in there:
                return name
        if len(url.ref) >= 7 and not url.ref.strip("0123456789abcdef"):
            return ""
        raise CopyError(f"repository does not contain ref {url.ref}", hint=f"look for branches and tags of {url.remote}")

    async def _fetch_shallow(self, url: GitUrl, ref: str) -> None:
        target = f"+{ref}:{_FETCHED}"
        try:
            await self.run("fetch", "--quiet", "--no-tags", "--depth=1", "--end-of-options", "origin", target)
        except CopyError as error:
            if "shallow" not in error.message:
                raise
            await self.run("fetch", "--quiet", "--no-tags", "--end-of-options", "origin", target)  # dumb http serves all or nothing

    async def _fetch_all(self, url: GitUrl) -> str:
        """Everything, for servers that do not give out single commits, and to find what a short id stands for."""
        await self.run("fetch", "--quiet", "--tags", "--end-of-options", "origin", "+refs/heads/*:refs/remotes/origin/*")
        return await self._commit(url, url.ref)

    async def _commit(self, url: GitUrl, ref: str) -> str:
        try:
            return (await self.run("rev-parse", "--verify", "--quiet", "--end-of-options", ref + "^{commit}")).strip()
        except CopyError:
            raise CopyError(f"repository does not contain ref {url.ref or 'HEAD'}") from None

    async def run(self, *arguments: str) -> str:
        """Runs a git command in the repository; returns its output. Raises `CopyError` when it fails."""
        return await self._git("-C", str(self.tree), *arguments)

    async def _git(self, *arguments: str) -> str:
        options = [part for option in _OPTIONS for part in ("-c", option)]
        if shutil.which("git", path=self._environment["PATH"]) is None:
            raise CopyError("git is not installed", hint="install git to use repositories as a context or in ADD")
        # Not every event loop can set a umask for a process, and ours is not to change: there are other threads.
        command = ["/bin/sh", "-c", 'umask 022; exec git "$@"', "git", *options, *arguments]
        process = await anyio.open_process(command, stdin=subprocess.DEVNULL, env=self._environment, cwd=self._into,
                                           start_new_session=True)  # fmt: skip
        output: dict[str, bytes] = {}
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_collect, process.stdout, output, "out")
                tasks.start_soon(_collect, process.stderr, output, "err")
            status = await process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with anyio.CancelScope(shield=True):
                await process.wait()
            raise
        finally:
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if status:
            said = output["err"].decode("utf-8", "replace").strip()
            verb = next(a for a in arguments if not a.startswith(("-", "/")))
            raise self._failed(verb, said or f"exit code {status}")
        return output["out"].decode("utf-8", "surrogateescape")

    def _failed(self, verb: str, said: str) -> CopyError:
        """The error for what git says."""
        hint = None
        if any(words in said for words in _REFUSED):
            hint = (f"the server does not take {self._login.origin}" if self._login else
                    f"give a login as a secret: --secret id={TOKEN},env=VARIABLE")
        elif self._login and "returned error: 30" in said:
            hint = "with a login no redirect is followed: name the repository by its present URL"
        said = self._login.hide(said) if self._login else said
        return CopyError(f"git {verb} failed: {said[-2000:]}", hint=hint)


async def _collect(stream: anyio.abc.ByteReceiveStream | None, output: dict[str, bytes], name: str) -> None:
    parts: list[bytes] = []
    size = 0
    if stream is not None:
        async for data in stream:
            size += len(data)
            if size <= _OUTPUT_LIMIT:
                parts.append(data)
    output[name] = b"".join(parts)


def _finish(tree: Path, url: GitUrl, keep_git_dir: bool, time: int | None) -> Path:
    """Removes git's own files, sets times, and finds the directory that is meant."""
    if not keep_git_dir:
        for path in [p for p in _below(tree) if p.name == ".git"]:
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink()
    if time is not None:
        for path in reversed(_below(tree)):
            os.utime(path, (time, time), follow_symlinks=False)
    inside = DirectoryTree(str(tree))
    real = resolve(inside, os.fsencode(url.subdir))
    entry = inside.get(real)
    if entry is None or entry.kind != "dir":
        raise CopyError(f"subdir {url.subdir} is not a directory of {url.remote}")
    return tree / os.fsdecode(real)


def _below(tree: Path) -> list[Path]:
    """Everything in a checkout but what is in git's own directories, directories first."""
    found: list[Path] = []
    todo = [tree]
    while todo:
        for path in sorted(todo.pop().iterdir()):
            found.append(path)
            if path.name != ".git" and path.is_dir() and not path.is_symlink():
                todo.append(path)
    return found
