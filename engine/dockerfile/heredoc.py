"""Here-documents: which words of a line open one, and the collecting of their bodies.

`<<NAME`, `<<-NAME`, `<<"NAME"`, with a file descriptor in front and blanks behind the mark; the rules are those of
BuildKit's parser, which takes the backslash for the escape here whatever the escape directive says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from engine.dockerfile.gotext import SPACE, quote
from engine.dockerfile.instructions import Heredoc
from engine.dockerfile.shellwords import Modes, ShellLexer, Words
from engine.errors import DockerfileError

_MARK = re.compile(r"([0-9]*)<<(-?)\s*([^<]*)\Z", re.ASCII)
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_UNSET: Mapping[str, str] = {}


class Marker(Struct, frozen=True):
    """A word that opens a here-document."""

    name: str
    expand: bool
    strip_tabs: bool
    fd: int

    def ends_at(self, line: str) -> bool:
        """Whether a line of the body (with its line ending) is the terminator."""
        line = line.rstrip("\r\n")
        return (line.lstrip("\t") if self.strip_tabs else line) == self.name

    def with_body(self, body: str) -> Heredoc:
        """The here-document, its leading tabs removed if that was asked for."""
        content = _LEADING_TABS.sub("", body) if self.strip_tabs else body
        return Heredoc(self.name, content, self.expand, self.strip_tabs, self.fd)


def marker(word: str) -> Marker | None:
    """What a word opens, or None; raises `DockerfileError` for an unbalanced quote in the name."""
    match = _MARK.match(word)
    if not match or not match[3]:
        return None
    names = _words(match[3], raw_quotes=False)
    if len(names) != 1:
        return None
    # A quote that did its work is there only when quotes are kept; an escaped one is there both times.
    quoted = _words(match[3], raw_quotes=True)
    return Marker(names[0], _quotes(names[0]) == _quotes("".join(quoted)), match[2] == "-", int(match[1][:9] or 0))


def markers(line: str) -> list[Marker]:
    """The here-documents that a whole line opens, in order; raises `DockerfileError` for an unbalanced quote in a name."""
    if "<<" not in line:
        return []
    words = Words()
    try:
        ShellLexer(line, _UNSET, Modes(raw_quotes=True, raw_escapes=True, keep_unset=True)).run(words)
    except DockerfileError:
        return []  # a line that only a real shell understands: it has no here-documents, as with BuildKit
    return [found for word in words.finish() if (found := marker(word))]


def is_heredoc_word(text: str) -> bool:
    """Whether a text is nothing but the mark of one here-document (RUN then runs its body)."""
    try:
        return marker(text.strip(SPACE)) is not None
    except DockerfileError:
        return False


def _words(name: str, *, raw_quotes: bool) -> tuple[str, ...]:
    words = Words()
    try:
        ShellLexer(name, _UNSET, Modes(raw_quotes=raw_quotes, keep_unset=True)).run(words)
    except DockerfileError as error:
        raise DockerfileError(f"failed to process {quote(name)}: {error.message}") from None
    return words.finish()


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')
