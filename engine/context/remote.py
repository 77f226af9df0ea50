"""URLs of git repositories and of files: which is which, and what is in them. Pure.

A git URL is one with the scheme `git` or `ssh`, one with `http` or `https` whose path ends in `.git`, or `user@host:path` as for
scp. Behind a `#` come a ref and a directory (`#ref:dir`); or they come, with more, in the query.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct
from msgspec.structs import replace

from engine.errors import CopyError

_SCHEME = re.compile(r"[a-zA-Z0-9]+://")
_SCP = re.compile(r"(?P<remote>[a-zA-Z0-9_-]+@[a-zA-Z0-9.-]+:[^?#]*)(?:\?(?P<query>[^#]*))?(?:#(?P<fragment>.*))?", re.DOTALL)
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class GitUrl(Struct, frozen=True):
    """A repository and what of it is meant. `ref` is a branch, a tag, a commit or a full ref; empty for the default branch.
    `checksum` is the commit (or how it begins) that must come out."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True
    commit_times: bool = False
    """Whether files get the commit's time instead of the one they are checked out at."""

    @property
    def is_commit(self) -> bool:
        """Whether `ref` is a full commit id."""
        return _SHA.fullmatch(self.ref) is not None


def is_git_url(text: str) -> bool:
    """Whether a source of ADD names a git repository."""
    return _split(text) is not None


def is_http_url(text: str) -> bool:
    """Whether a source of ADD (or a context) names something to be downloaded."""
    return text.startswith(("http://", "https://")) and not is_git_url(text)


def is_git_context(text: str) -> bool:
    """Whether a build context names a git repository; `github.com/…` does too, as docker has always had it."""
    return is_git_url(text) or text.startswith("github.com/")


def parse_git_url(text: str) -> GitUrl:
    """Takes a git URL apart; raises `CopyError` when it is none, or when its parts contradict each other."""
    parts = _split("https://" + text if text.startswith("github.com/") else text, any_path=text.startswith("github.com/"))
    if parts is None:
        raise CopyError(f"{text} is no git URL")
    remote, query, fragment = parts
    if remote.startswith("-"):
        raise CopyError(f"invalid git URL: {text}")
    ref, _, subdir = fragment.partition(":")
    url = _with_query(GitUrl(remote, ref, subdir), query)
    if url.ref.startswith("-") or any(c in url.ref for c in "\n\0 :^~?*[\\") or ".." in url.ref:
        raise CopyError(f"invalid git ref: {url.ref}")
    if ".." in url.subdir.split("/"):
        raise CopyError(f"invalid directory in a git URL: {url.subdir}")
    return url


def _split(text: str, *, any_path: bool = False) -> tuple[str, str, str] | None:
    """Remote, query and fragment of a git URL; None if it is none."""
    if text.startswith(("./", "../")):
        return None
    if not _SCHEME.match(text):
        found = _SCP.fullmatch(text)
        return (found["remote"], found["query"] or "", found["fragment"] or "") if found else None
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    if scheme in ("http", "https"):
        if not (any_path or unquote(parts.path).endswith(".git")):
            return None
    elif scheme not in ("git", "ssh"):
        return None
    return parts._replace(query="", fragment="").geturl(), parts.query, unquote(parts.fragment)


def _with_query(url: GitUrl, query: str) -> GitUrl:
    values: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in values:
            raise CopyError(f'query "{name}" has multiple values')
        if not value and name not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise CopyError(f'query "{name}" has no value')
        values[name] = value
    for name, value in values.items():
        url = _with_option(url, name, value)
    url = _with_ref(url, values)
    return replace(url, ref=url.ref or url.checksum)


def _with_option(url: GitUrl, name: str, value: str) -> GitUrl:
    """The URL with one option of its query; those that name a ref are for `_with_ref`."""
    match name:
        case "ref" | "tag" | "branch":
            return url
        case "subdir":
            if url.subdir not in ("", value):
                raise CopyError(f'subdir conflicts: "{url.subdir}" vs "{value}"')
            return replace(url, subdir=value)
        case "checksum" | "commit":
            return replace(url, checksum=value)
        case "keep-git-dir":
            return replace(url, keep_git_dir=_boolean(name, value))
        case "submodules":
            return replace(url, submodules=_boolean(name, value))
        case "fetch-by-commit":
            _boolean(name, value)  # a commit is always fetched by its id first
            return url
        case "mtime":
            if value not in ("commit", "checkout"):
                raise CopyError(f'invalid mtime value: "{value}"')
            return replace(url, commit_times=value == "commit")
    raise CopyError(f'unexpected query "{name}"')


def _with_ref(url: GitUrl, values: dict[str, str]) -> GitUrl:
    if "tag" in values and "branch" in values:
        raise CopyError("branch conflicts with tag")
    for name, prefix in (("ref", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if name in values:
            ref = prefix + values[name].removeprefix(prefix)
            if url.ref not in ("", ref):
                raise CopyError(f'ref conflicts: "{url.ref}" vs "{ref}"')
            url = replace(url, ref=ref)
    return url


def _boolean(name: str, value: str) -> bool:
    if value in _TRUE or not value:
        return True
    if value in _FALSE:
        return False
    raise CopyError(f'invalid {name} value: "{value}"')
