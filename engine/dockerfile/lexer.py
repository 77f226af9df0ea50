"""Bytes → statements: lines, comments, continuations, here-documents, and where each of them stands.

dockerfile-parse joins lines to instructions, and is asked for that alone. Where its reading is not BuildKit's, it is not given
the chance to differ. It ends an instruction at a blank line inside it; it continues a line that ends in an *escaped*
backslash; it finds the escape directive only behind `syntax`, not behind `check`; it loses an instruction that the end of the
file cuts off; it strips the blanks that a continuation joins with; it cannot decode what is not UTF-8; and the body of a
here-document is instructions to it. So what each line *is* is decided here, the library is shown a skeleton of the file in
which every line says just that, and it answers which lines make one instruction. Their text is put together here, and so are
here-documents: the library sees a file in pieces that end where one may begin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO

from dockerfile_parse import DockerfileParser
from msgspec import Struct
from msgspec.structs import replace

from engine.dockerfile.directives import read_directives
from engine.dockerfile.gotext import SPACE
from engine.dockerfile.heredoc import markers
from engine.dockerfile.instructions import Heredoc, Warning_
from engine.dockerfile.statement import Statement, split_statement
from engine.errors import DockerfileError, Location

LONGEST_LINE = 65535
"""Bytes of one line, without its ending."""

_SKIPPED, _CONTINUED, _WHOLE = b"#\n", b"x \\\n", b"x\n"


class Lexed(Struct, frozen=True):
    """What a file consists of. `text` is it as text, without a byte order mark; bytes that are not UTF-8 are U+FFFD there."""

    text: str
    directives: dict[str, str]
    escape: str
    statements: tuple[Statement, ...]
    warnings: tuple[Warning_, ...]


def lex(data: bytes, file: str, *, escape: str = "\\") -> Lexed:
    """Takes a Dockerfile apart; `escape` holds unless a directive says otherwise. Raises `DockerfileError`, with its place."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    text = data.decode("utf-8", "replace")
    try:
        lines = _lines(data)
        _check_lengths(lines, file)
        directives = read_directives(lines, file)
        reader = _Reader(lines, file, directives.get("escape", escape))
        statements = tuple(reader.statements())
        if not statements:
            raise DockerfileError("file with no instructions", location=Location(1, max(1, len(lines)), file))
    except DockerfileError as error:
        raise error.at(None, text) from None
    return Lexed(text, directives, reader.escape, statements, tuple(reader.warnings))


def _lines(data: bytes) -> list[str]:
    """The lines without their newline. Bytes that are not UTF-8 are kept for the bodies of here-documents."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def _check_lengths(lines: Sequence[str], file: str) -> None:
    for number, line in enumerate(lines, 1):
        if len(line) * 4 > LONGEST_LINE and len(line.encode("utf-8", "surrogateescape")) > LONGEST_LINE:
            raise DockerfileError(
                f"dockerfile line greater than max allowed size of {LONGEST_LINE}", location=Location(number, number, file)
            )


class _Reader:
    """Reads the statements of one file. `warnings` grows as they are read."""

    def __init__(self, lines: list[str], file: str, escape: str) -> None:
        self.escape = escape
        self.warnings: list[Warning_] = []
        self._lines = lines
        self._file = file
        self._pieces: list[str] = []
        self._skeleton: list[bytes] = []
        for line in lines:
            kind, piece = self._classify(line)
            self._skeleton.append(kind)
            self._pieces.append(piece)

    def _classify(self, line: str) -> tuple[bytes, str]:
        """What a line is outside of a here-document, and what it gives to the instruction it belongs to."""
        line = line.rstrip("\r")
        content = line.lstrip(SPACE)
        if not content or content[0] == "#":
            return _SKIPPED, content
        trimmed = line.rstrip(" \t")
        if trimmed[-1] == self.escape and trimmed[-2:-1] != self.escape:
            return _CONTINUED, _readable(trimmed[:-1])
        return _WHOLE, _readable(line)

    def statements(self) -> Iterator[Statement]:
        """All statements in order."""
        start, total = 0, len(self._lines)
        candidates = iter([i for i in range(total) if self._may_open_heredoc(i)])
        candidate: int | None = next(candidates, None)
        while start < total:
            while candidate is not None and candidate < start:
                candidate = next(candidates, None)
            end = total if candidate is None else self._end_of_instruction(candidate)
            for first, last in self._instructions(start, end):
                statement, after = self._statement(first, last)
                yield statement
                end = max(end, after)
            start = end

    def _may_open_heredoc(self, index: int) -> bool:
        """Whether a line holds `<<`, or the half of one that a continuation cuts in two."""
        kind = self._skeleton[index]
        return kind != _SKIPPED and ("<<" in self._lines[index] or (kind == _CONTINUED and self._pieces[index].endswith("<")))

    def _end_of_instruction(self, index: int) -> int:
        """The index behind the instruction that a line of content belongs to."""
        while index < len(self._lines) and self._skeleton[index] != _WHOLE:
            index += 1
        return min(index + 1, len(self._lines))

    def _instructions(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The instructions in a piece of the file: the indices of their first and last line."""
        skeleton = self._skeleton[start:end]
        content = [i for i, kind in enumerate(skeleton) if kind != _SKIPPED]
        if not content:
            return
        cut_off = skeleton[content[-1]] == _CONTINUED
        skeleton[content[-1]] = _WHOLE
        parser = DockerfileParser(fileobj=BytesIO(b"".join(skeleton)), env_replace=False)
        for entry in parser.structure:
            if entry["instruction"] == "X":
                last = end - 1 if cut_off and entry["endline"] == content[-1] else start + entry["endline"]
                yield start + entry["startline"], last

    def _statement(self, first: int, last: int) -> tuple[Statement, int]:
        """The statement on some lines, and the index behind it and its here-documents."""
        kept = [i for i in range(first, last + 1) if self._skeleton[i] != _SKIPPED]
        line = self._pieces[kept[0]].lstrip(SPACE) + "".join(self._pieces[i] for i in kept[1:])
        location = Location(first + 1, last + 1, self._file)
        if any(self._skeleton[i] == _SKIPPED and not self._pieces[i] for i in range(first, last + 1)):
            place = Location(last + 1, last + 1, self._file)
            self.warnings.append(Warning_("NoEmptyContinuation", "Empty continuation line", place))
        try:
            statement = split_statement(line, self.escape, location)
            found = markers(line) if statement.takes_heredocs else []
        except DockerfileError as error:
            raise error.at(location) from None
        if not found:
            return statement, last + 1
        after = last + 1
        heredocs: list[Heredoc] = []
        bodies: list[str] = []
        for marker in found:
            start, after = after, next((i for i in range(after, len(self._lines)) if marker.ends_at(self._lines[i])), -1)
            if after < 0:
                raise DockerfileError("unterminated heredoc", location=Location(first + 1, len(self._lines), self._file))
            body = "".join(f"{text}\n" for text in self._lines[start:after])
            bodies.append(body)
            heredocs.append(marker.with_body(body))
            after += 1
        place = Location(first + 1, after, self._file)
        return replace(statement, location=place, heredocs=tuple(heredocs), bodies=tuple(bodies)), after


def _readable(text: str) -> str:
    """A text with U+FFFD in place of bytes that are not UTF-8, as BuildKit's scanner has it."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
