"""The lexer behind variable expansion: quotes, escapes and `$`, read as BuildKit reads them.

One pass over a text gives the expanded text and, if asked for, the words it falls into. It looks like a shell and is not
one: see the rules A2 and 1 to 8 of the Dockerfile rules for where it differs. `engine.dockerfile.expand` is its front.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from msgspec import Struct

from engine.dockerfile.gotext import SPACE
from engine.dockerfile.substitute import replace_all, replace_first, trim_prefix, trim_suffix
from engine.errors import DockerfileError

_DEEPEST = 100
_MOST = 1 << 20
_SPECIAL_PARAMETERS = "@*#?-$!0"
_RUNS = re.compile(rf"[{SPACE}]+|[^{SPACE}]+")
_PLAIN = re.compile(r"""[^$'"<\\`/}]+""")
_HEREDOC_MARK = re.compile(r"<<[ \t\r]*")
_END = "\ufffd"
"""What a character past the end is in a message (Go's rune -1)."""


class Modes(Struct):
    """How to read. `quotes` false leaves quotes alone; `raw_quotes` and `raw_escapes` heed them but keep them in the result;
    `keep_unset` leaves a reference to an unset variable as it is written."""

    escape: str = "\\"
    quotes: bool = True
    raw_quotes: bool = False
    raw_escapes: bool = False
    keep_unset: bool = False


class Words:
    """Collects the words of a text: blanks that are neither quoted nor escaped end one; there are no empty words."""

    __slots__ = ("_current", "_done")

    def __init__(self) -> None:
        self._done: list[str] = []
        self._current = ""

    def add(self, text: str) -> None:
        """Text in which blanks end a word."""
        for run in _RUNS.findall(text):
            if run[0] not in SPACE:
                self._current += run
            elif self._current:
                self._done.append(self._current)
                self._current = ""

    def add_raw(self, text: str) -> None:
        """Text that belongs to the word as a whole."""
        self._current += text

    def finish(self) -> tuple[str, ...]:
        """The words so far."""
        return (*self._done, self._current) if self._current else tuple(self._done)


class ShellLexer:
    """Reads one text once. `used` and `undefined` are the names of the variables it met, set and unset."""

    def __init__(self, text: str, variables: Mapping[str, str], modes: Modes) -> None:
        self._text = text
        self._length = len(text)
        self._at = 0
        self._depth = 0
        self._room = _MOST  # a few lines can double a value until it fills the memory
        self._variables = variables
        self._escape = modes.escape
        self._modes = modes
        self._raw_escapes = modes.raw_escapes
        self.used: set[str] = set()
        self.undefined: set[str] = set()

    def run(self, words: Words | None = None) -> str:
        """The expanded text; `words` is given its words. Raises `DockerfileError`, without the text it is about."""
        return self._until("", self._raw_escapes, words)

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._text[self._at : self._at + 1]
        self._at += 1
        return char

    def _until(self, stop: str, raw_escapes: bool, words: Words | None) -> str:
        """Reads up to `stop`, or to the end if that is empty."""
        before, self._raw_escapes = self._raw_escapes, raw_escapes
        self._depth += 1
        if self._depth > _DEEPEST:
            raise DockerfileError("substitutions are nested too deeply")
        try:
            return self._read(stop, words)
        finally:
            self._raw_escapes = before
            self._depth -= 1

    def _read(self, stop: str, words: Words | None) -> str:
        out: list[str] = []
        while self._at < self._length:
            plain = _PLAIN.match(self._text, self._at)
            if plain:
                self._at = plain.end()
                out.append(plain[0])
                if words:
                    words.add(plain[0])
                continue
            char = self._text[self._at]
            if char == stop:
                self._at += 1
                return "".join(out)
            self._special(char, out, words)
        if stop:
            raise DockerfileError(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def _special(self, char: str, out: list[str], words: Words | None) -> None:
        """Reads what begins with a character that may mean something."""
        if char == "$":
            piece = self._dollar()
            if words:
                words.add(piece)
        elif char in "'\"" and self._modes.quotes:
            piece = self._single_quoted() if char == "'" else self._double_quoted()
            if words:
                words.add_raw(piece)
        elif char == "<" and (mark := _HEREDOC_MARK.match(self._text, self._at)):
            self._at = mark.end()  # blanks behind << belong to the word, so that `<< EOF` is one
            piece = mark[0]
            if words:
                words.add_raw(piece)
        elif char == self._escape:
            self._at += 1
            following = self._next()
            piece = char + following if self._raw_escapes else following
            if words:
                words.add_raw(piece)
        else:
            self._at += 1
            piece = char
            if words:
                words.add(piece)
        out.append(piece)

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            self._at = self._length
            raise DockerfileError("unexpected end of statement while looking for matching single-quote")
        start, self._at = self._at, end + 1
        return self._text[start : end + 1] if self._modes.raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        self._at += 1
        out = ['"'] if self._modes.raw_quotes else []
        while self._at < self._length:
            char = self._peek()
            if char == '"':
                self._at += 1
                if self._modes.raw_quotes:
                    out.append(char)
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                if self._raw_escapes:
                    out.append(char)
                following = self._peek()
                if not following:
                    continue
                if following in ('"', "$", self._escape):
                    self._at += 1
                    char = following
            out.append(char)
        raise DockerfileError("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._value(name)
            if value is None:
                return "$" + name if self._modes.keep_unset else ""
            return value
        self._at += 1
        following = self._peek()
        if not following:
            raise DockerfileError("syntax error: missing '}'")
        if following in "{}:":
            raise DockerfileError("syntax error: bad substitution")
        return self._braced(self._name())

    def _braced(self, name: str) -> str:
        """What stands behind `${name`."""
        char = self._next()
        if char == "}":
            value = self._value(name)
            if value is None:
                return "${" + name + "}" if self._modes.keep_unset else ""
            return value
        if char == "/":
            return self._replaced(name)
        modifier = char
        if char == ":":
            char = self._next()
            modifier += char or _END
            if char and char in "#%":
                raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")
        elif not char or char not in "+-?#%":
            raise DockerfileError(f"unsupported modifier ({char or _END}) in substitution")
        word = self._part("}", char in ("#", "%"), "syntax error: missing '}'")
        value = self._value(name)
        if value is None and self._modes.keep_unset:
            return "${" + name + modifier + word + "}"
        return _modified(name, modifier, word, value)

    def _replaced(self, name: str) -> str:
        """`${name/pattern/replacement}`, behind the first slash."""
        replace: Callable[[str, str, str], str] = replace_first
        if self._peek() == "/":
            self._at += 1
            replace = replace_all
        pattern = self._part("/", True, "syntax error: missing '/' in ${}")
        replacement = self._part("}", True, "syntax error: missing '}'")
        value = self._value(name)
        if value is None and self._modes.keep_unset:
            return "${" + f"{name}/{pattern}/{replacement}" + "}"
        return replace(pattern, value or "", replacement)

    def _part(self, stop: str, raw_escapes: bool, missing: str) -> str:
        """A part of a substitution, expanded itself; an error at the very end of the text means that `stop` is `missing`."""
        try:
            return self._until(stop, raw_escapes, None)
        except DockerfileError:
            if self._at >= self._length:
                raise DockerfileError(missing) from None
            raise

    def _name(self) -> str:
        start, text = self._at, self._text
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first and first in _SPECIAL_PARAMETERS:
            self._at += 1
        else:
            while (char := self._peek()).isalpha() or char.isdecimal() or char == "_":
                self._at += 1
        return text[start : self._at]

    def _value(self, name: str) -> str | None:
        value = self._variables.get(name)
        self._room -= len(value or "")
        if self._room < 0:
            raise DockerfileError(f"the values of variables come to more than {_MOST} characters")
        (self.undefined if value is None else self.used).add(name)
        return value


def _modified(name: str, modifier: str, word: str, value: str | None) -> str:
    """What `${name<modifier>word}` gives; a `:` in the modifier means that an empty value counts as none."""
    kind = modifier[-1]
    missing = value is None or (modifier[0] == ":" and not value)
    if kind == "-":
        return word if missing else value or ""
    if kind == "+":
        return "" if missing else word
    if kind == "?":
        if missing:
            default = "is not allowed to be unset" if value is None else "is not allowed to be empty"
            raise DockerfileError(f"{name}: {word or default}")
        return value or ""
    if kind in "#%":
        longest = word.startswith(kind)
        trim = trim_prefix if kind == "#" else trim_suffix
        return trim(word[1:] if longest else word, value or "", longest=longest)
    raise DockerfileError(f"unsupported modifier ({modifier}) in substitution")
