"""The argument parser: argparse, with docker's habits (`--push=false`) and errors that suggest what was meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from engine.errors import UsageError

_TRUE = ("1", "t", "T", "true", "True", "TRUE")
_FALSE = ("0", "f", "F", "false", "False", "FALSE")


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print and exit. `elsewhere` says of flags that other builders have, and this one
    does not, what to do instead."""

    def __init__(self, *, elsewhere: Mapping[str, str] | None = None, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.elsewhere = dict(elsewhere or {})

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of a command line; exits after `--help`."""
        arguments, rest = self.parse_known_args(list(words))
        flags = [word.partition("=")[0] for word in rest if word.startswith("-") and word != "-"]
        if flags:
            raise self._unknown(flags[0])
        if rest:
            raise UsageError(f"too many arguments: {' '.join(rest)}", hint=self._see_help)
        return arguments

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise UsageError(message, hint=self._see_help)

    @property
    def _see_help(self) -> str:
        return f"see {self.prog} --help"

    def _unknown(self, flag: str) -> UsageError:
        if flag in self.elsewhere:
            return UsageError(f"unsupported flag: {flag}", hint=self.elsewhere[flag])
        flags = [name for name in self._option_string_actions if "=" not in name]
        return UsageError(f"unknown flag: {flag}", hint=did_you_mean(flag, flags) or self._see_help)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """`did you mean --push?`, when there is a word that is near enough."""
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else None


def add_switch(group: argparse._ActionsContainer, *names: str, help: str) -> None:
    """A flag that is on or off: `--pull`, and as docker takes it also `--pull=true` and `--pull=false`; the last one counts."""
    dest = names[-1].lstrip("-").replace("-", "_")
    group.add_argument(*names, dest=dest, action="store_true", help=help)
    long = [name for name in names if name.startswith("--")]
    for values, action in ((_TRUE, "store_true"), (_FALSE, "store_false")):
        spelled = [f"{name}={value}" for name in long for value in values]
        group.add_argument(*spelled, dest=dest, action=action, default=False, help=argparse.SUPPRESS)
