"""The first pass over an instruction: keyword, flags and arguments, by the grammar that its keyword has.

What is decided here is only how the text falls apart. Whether an instruction may have these flags and that many arguments is
the second pass (`engine.dockerfile.compose`), so that a mistake of structure anywhere in a file is reported first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct

from engine.codec import decode
from engine.dockerfile.gotext import SPACE, quote
from engine.dockerfile.instructions import Heredoc
from engine.errors import DockerfileError, Location

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_PLAIN_FLAG = re.compile(rf"[^{SPACE}'\"\\]++(?=[{SPACE}]|\Z)")
_NOWHERE = Location(0, 0)
_WITH_HEREDOCS = frozenset({"RUN", "COPY", "ADD"})


class Arguments(Struct, frozen=True):
    """The words of an instruction. `json` tells the JSON form; for ENV and LABEL the words are name, value, name, value…"""

    words: tuple[str, ...] = ()
    json: bool = False


class Statement(Struct, frozen=True):
    """An instruction that is not yet understood. `keyword` and `line` are as written (`line` with continuations joined),
    `bodies` are the here-documents' texts as they stand in the file. For ONBUILD, `trigger` is what comes behind it."""

    keyword: str
    flags: tuple[str, ...]
    arguments: Arguments
    line: str
    trigger: Statement | None = None
    location: Location = _NOWHERE
    heredocs: tuple[Heredoc, ...] = ()
    bodies: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The keyword in upper case."""
        return self.keyword.upper()

    @property
    def takes_heredocs(self) -> bool:
        """Whether `<<` in the line opens here-documents."""
        inner = self.trigger if self.name == "ONBUILD" and self.trigger else self
        return inner.name in _WITH_HEREDOCS and not inner.arguments.json


def split_statement(line: str, escape: str, location: Location = _NOWHERE, *, inside_onbuild: bool = False) -> Statement:
    """Takes a joined line apart; raises `DockerfileError` for arguments that do not follow the keyword's grammar."""
    keyword, _, rest = _partition(line.strip(SPACE))
    flags, rest = split_flags(rest)
    rest = rest.strip(SPACE)
    name = keyword.upper()
    if name == "ONBUILD" and rest and not inside_onbuild:
        trigger = split_statement(rest, escape, inside_onbuild=True)
        return Statement(keyword, flags, Arguments((trigger.keyword,)), line, trigger, location)
    grammar = _GRAMMARS.get(name)
    return Statement(keyword, flags, grammar(rest, escape) if grammar else Arguments(), line, None, location)


def _partition(line: str) -> tuple[str, str, str]:
    match = _BLANKS.search(line)
    return (line[: match.start()], match[0], line[match.end() :]) if match else (line, "", "")


def split_flags(rest: str) -> tuple[tuple[str, ...], str]:
    """The `--flags` that open a text, quotes and backslashes removed, and what follows them. A lone `--` ends the flags."""
    rest = rest.lstrip(SPACE)
    flags: list[str] = []
    while rest.startswith("--"):
        word, rest = _flag(rest)
        if word == "--":
            break
        flags.append(word)
        rest = rest.lstrip(SPACE)
    return tuple(flags), rest


def _flag(text: str) -> tuple[str, str]:
    """The first word and the rest. The backslash escapes here even when the escape directive names another character."""
    plain = _PLAIN_FLAG.match(text)
    if plain:
        return plain[0], text[plain.end() :]
    out: list[str] = []
    quoted = ""
    at = 0
    while at < len(text):
        char = text[at]
        if quoted and char == quoted:
            quoted = ""
        elif not quoted and char in SPACE:
            break
        elif not quoted and char in "'\"":
            quoted = char
        elif char == "\\":
            at += 1
            out.append(text[at : at + 1])
        else:
            out.append(char)
        at += 1
    return "".join(out), text[at:]


def split_blanks(rest: str) -> tuple[str, ...]:
    """The words between blanks; quotes mean nothing."""
    return tuple(_BLANKS.split(rest)) if rest else ()


def split_words(rest: str, escape: str) -> tuple[str, ...]:
    """The words between blanks that are neither quoted nor escaped; quotes and escapes stay, for expansion to resolve."""
    out: list[str] = []
    for match in _word(escape).finditer(rest):
        word = match[0]
        # An escape with nothing behind it says nothing.
        dangling = match.end() == len(rest) and (match["open"] is not None or match["cut"] is not None)
        out.append(word[:-1] if dangling else word)
    return tuple(word for word in out if word)


@lru_cache(maxsize=2)
def _word(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    double = rf'"(?:{e}[\s\S]|[^"{e}])*+(?:"|(?P<cut>{e})\Z|\Z)'
    return re.compile(rf"(?:{e}[\s\S]|(?P<open>{e})\Z|'[^']*+(?:'|\Z)|{double}|[^{SPACE}'\"{e}])++")


def json_words(rest: str) -> tuple[str, ...] | None:
    """The strings of a JSON array, or None if the text is not one; raises `DockerfileError` if it holds something else."""
    rest = rest.lstrip(SPACE)
    if not rest.startswith("["):
        return None
    try:
        value = decode(rest)
    except ValueError:
        return None
    if not all(isinstance(word, str) for word in value):
        raise DockerfileError("when using JSON array syntax, arrays must be comprised of strings only")
    return tuple(value)


def _json_or_line(rest: str, escape: str) -> Arguments:
    words = json_words(rest)
    if words is not None:
        return Arguments(words, json=True)
    return Arguments((rest,)) if rest else Arguments()


def _json_or_list(rest: str, escape: str) -> Arguments:
    words = json_words(rest)
    return Arguments(split_blanks(rest)) if words is None else Arguments(words, json=True)


def _list(rest: str, escape: str) -> Arguments:
    return Arguments(split_blanks(rest))


def _line(rest: str, escape: str) -> Arguments:
    return Arguments((rest,)) if rest else Arguments()


def _words(rest: str, escape: str) -> Arguments:
    return Arguments(split_words(rest, escape))


def _healthcheck(rest: str, escape: str) -> Arguments:
    kind = rest.split(maxsplit=1)
    if not kind:
        return Arguments()
    command = _json_or_line(rest[len(kind[0]) :].strip(SPACE), escape)
    return Arguments((kind[0], *command.words), command.json)


def _pairs(name: str) -> Callable[[str, str], Arguments]:
    def read(rest: str, escape: str) -> Arguments:
        words = split_words(rest, escape)
        if not words:
            return Arguments()
        if "=" not in words[0]:  # NAME value: the value is the rest of the line as it is
            key, blanks, value = _partition(rest)
            if not blanks:
                raise DockerfileError(f"{name} must have two arguments")
            return Arguments((key, value))
        out: list[str] = []
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise DockerfileError(f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value")
            out += (key, value)
        return Arguments(tuple(out))

    return read


_GRAMMARS: dict[str, Callable[[str, str], Arguments]] = {
    "ADD": _json_or_list, "ARG": _words, "CMD": _json_or_line, "COPY": _json_or_list, "ENTRYPOINT": _json_or_line,
    "ENV": _pairs("ENV"), "EXPOSE": _list, "FROM": _list, "HEALTHCHECK": _healthcheck, "LABEL": _pairs("LABEL"),
    "MAINTAINER": _line, "RUN": _json_or_line, "SHELL": _json_or_line, "STOPSIGNAL": _line, "USER": _line,
    "VOLUME": _json_or_list, "WORKDIR": _line,
}  # fmt: skip
