"""How a failure is told: the end of what the step wrote, the lines of the Dockerfile, what to do about it, and last the error
itself on a line that begins with `ERROR: `."""

from __future__ import annotations

import errno
from collections.abc import Sequence

from engine.errors import EngineError, Location, RunError, StorageError
from engine.progress.lines import clean

CONTEXT = 2
"""Lines shown before and after those that an error comes from."""
LONGEST = 24
"""Lines shown of an instruction, at most."""
_RULE = "-" * 20


def cause(error: BaseException) -> BaseException:
    """The error to tell: of a group the first that is a user's or the machine's, else the first that is a bug. Errors of the
    operating system that say that a disk is full or not writable become `StorageError`."""
    leaves = _leaves(error)
    known = [known for leaf in leaves if (known := _known(leaf))]
    return known[0] if known else leaves[0]


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


def _known(error: BaseException) -> EngineError | None:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        where = f": {error.filename}" if error.filename else ""
        return StorageError(f"{error.strerror}{where}", hint="free some space, or choose another directory with --state-dir")
    return None


def text(error: EngineError) -> str:
    """The whole message, with a newline at its end."""
    lines: list[str] = []
    if isinstance(error, RunError) and error.output:
        lines += ["------", " > last lines of output:", *(clean(line, colour=False) for line in error.output), "------"]
    if error.location and error.source is not None:
        lines += excerpt(error.source, error.location)
    elif error.location:
        lines.append(f"{error.location.file}:{error.location.first}")
    if error.hint:
        lines.append(f"hint: {error.hint}")
    lines.append(f"ERROR: {error.message}")
    return "".join(f"{clean(line, colour=False)}\n" for item in lines for line in item.splitlines() or [""])


def excerpt(source: str, location: Location) -> list[str]:
    """The lines of a Dockerfile around a location, those within it marked with `>>>`; none if it lies outside the text."""
    lines = source.splitlines()
    first, last = location.first, min(location.last, len(lines))
    if not 1 <= first <= last:
        return []
    shown_last = min(last, first + LONGEST - 1)
    rows = [_row(number, lines, marked=first <= number <= last)
            for number in range(max(1, first - CONTEXT), shown_last + 1)]
    if shown_last < last:
        rows.append(f"     | >>> … {last - shown_last} more lines")
    else:
        rows += [_row(number, lines, marked=False) for number in range(last + 1, min(last + CONTEXT, len(lines)) + 1)]
    return [f"{location.file}:{location.first}", _RULE, *rows, _RULE]


def _row(number: int, lines: Sequence[str], *, marked: bool) -> str:
    return f"{number:4d} | {'>>>' if marked else '   '} {clean(lines[number - 1], colour=False)}".rstrip()


def fields(error: EngineError) -> dict[str, object]:
    """The error for programs: what `--progress json` writes as its last line."""
    out: dict[str, object] = {"code": error.code, "exit_code": error.exit_code, "message": error.message,
                              "hint": error.hint or ""}
    if error.location:
        out |= {"file": error.location.file, "line": error.location.first, "last_line": error.location.last}
    if isinstance(error, RunError):
        out["status"] = error.status
    return out
