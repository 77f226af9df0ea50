"""What a copy depends on, for the key of its step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from engine.solve.copying.request import Copied


def copied_digest_items(copied: Iterable[Copied], digests: Mapping[bytes, str]) -> Iterator[bytes]:
    """Bytes to be hashed for each entry of a copy: all that will be in the layer but times. Equal copies give equal bytes and
    others different ones, also when they are joined: every field is framed by its length.

    `digests` has the sha256 (hexadecimal) of the files that come from a context, by `from_path`; `KeyError` is raised when one
    is missing. Directories that were there before do not count.
    """
    for entry, from_path, _, _, kept in copied:
        if kept:
            continue
        path, kind, mode, uid, gid, size, _, link, digest, major, minor, xattrs = entry
        if not digest and kind == "file" and size:
            digest = digests[from_path if from_path is not None else path]
        head = b"%d:%b%d:%b" % (len(path), path, len(link), link)
        yield head + f"{kind} {mode:o} {uid}:{gid} {major},{minor} {digest} {len(xattrs)};".encode() + _frame(xattrs)


def _frame(xattrs: tuple[tuple[str, bytes], ...]) -> bytes:
    return b"".join(b"%d:%b%d:%b" % (len(name.encode()), name.encode(), len(value), value) for name, value in xattrs)
