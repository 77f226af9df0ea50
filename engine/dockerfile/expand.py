"""Expansion of variables in the arguments of instructions (rules A2 and 1 to 8).

Pure: the variables are a mapping, an unset one expands to nothing. Every function raises `DockerfileError` with BuildKit's
text; the caller adds the place. Where it matters which variables had a say (cache keys, the UndefinedVar check), `expansion`
and `heredoc_expansion` tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from engine.dockerfile.gotext import quote
from engine.dockerfile.shellwords import Modes, ShellLexer, Words
from engine.errors import DockerfileError

_SPECIAL = re.compile(r"""[$'"\\`]""")


class Expanded(Struct, frozen=True):
    """`text` as a whole, and the `words` it splits into afterwards. `used` names the variables that were set and looked at,
    `undefined` those that were looked for and are not set."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    undefined: frozenset[str]


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """A text with its variables replaced, its quotes removed and its escapes resolved; blanks are kept."""
    if not _SPECIAL.search(text):
        return text
    return _run(text, variables, Modes(escape), None)[0]


def expand_words(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """The words of a text, split after expansion: a variable's value may give several (EXPOSE)."""
    words = Words()
    _run(text, variables, Modes(escape), words)
    return list(words.finish())


def expand_heredoc(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> str:
    """The body of an unquoted heredoc of COPY or ADD: variables and escapes are resolved, quotes are text.

    BuildKit resolves backslashes here whatever the escape directive says, so `escape` is without effect.
    """
    if "$" not in text and "\\" not in text:
        return text
    return _run(text, variables, Modes(quotes=False), None)[0]


def expansion(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> Expanded:
    """Like `expand` and `expand_words` together, with the variables that were used and those that were undefined."""
    words = Words()
    out, lexer = _run(text, variables, Modes(escape), words)
    return Expanded(out, words.finish(), frozenset(lexer.used), frozenset(lexer.undefined))


def heredoc_expansion(text: str, variables: Mapping[str, str]) -> Expanded:
    """Like `expand_heredoc`, with the variables that were used and those that were undefined; without words."""
    out, lexer = _run(text, variables, Modes(quotes=False), None)
    return Expanded(out, (), frozenset(lexer.used), frozenset(lexer.undefined))


def _run(text: str, variables: Mapping[str, str], modes: Modes, words: Words | None) -> tuple[str, ShellLexer]:
    lexer = ShellLexer(text, variables, modes)
    try:
        return lexer.run(words), lexer
    except DockerfileError as error:
        raise DockerfileError(f"failed to process {quote(text)}: {error.message}") from None
