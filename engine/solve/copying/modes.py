"""`--chmod`: octal modes, and symbolic ones by the rules of BSD's setmode(3) with an empty umask, which are BuildKit's.

What differs from chmod(1) of GNU: `X` looks at the mode before all clauses; a copy such as `g=u` leaves set-id bits alone;
directories keep no set-id bit that `=` takes away; `t` goes with any class but `o`.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from msgspec import field

from engine.errors import CopyError
from engine.values import Value

_SET_ID = 0o6000
_STICKY = 0o1000
_STANDARD = 0o6777
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o0007, "a": _STANDARD}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}
_SHIFT = {"u": 6, "g": 3, "o": 0}


class _Step(NamedTuple):
    """One change: `clear` bits go, `bits` come, `any_x` bits come if the file is a directory or was executable, or the class
    `copy` is copied to, added to or taken from (`operator`) the classes in `bits`."""

    clear: int = 0
    bits: int = 0
    any_x: int = 0
    copy: str = ""
    operator: str = ""


class Mode(Value, frozen=True):
    """A parsed `--chmod`. `octal` is the mode it sets; None for a symbolic one, which depends on the mode before."""

    UNSHOWN: ClassVar = frozenset({"_known"})
    UNCOMPARED: ClassVar = frozenset({"_known"})

    octal: int | None = None
    steps: tuple[_Step, ...] = ()
    _known: dict[tuple[int, bool], int] = field(default_factory=dict)

    def apply(self, mode: int, directory: bool) -> int:
        """The twelve bits after the change of a file or directory that has `mode`."""
        if self.octal is not None:
            return self.octal
        known = self._known.get((mode, directory))
        if known is None:
            known = self._known[mode, directory] = self._apply(mode, directory)
        return known

    def _apply(self, before: int, directory: bool) -> int:
        mode = before
        for step in self.steps:
            if step.copy:
                mode = _copy(mode, step)
                continue
            mode = mode & ~step.clear | step.bits
            if directory or before & 0o111:
                mode |= step.any_x
        return mode


def parse_mode(text: str) -> Mode:
    """Reads the value of `--chmod`; raises `CopyError` for what is neither an octal number up to 7777 nor a symbolic mode."""
    if text[:1].isdigit():
        if text.isascii() and not text.strip("01234567") and int(text, 8) <= 0o7777:
            return Mode(octal=int(text, 8))
        raise CopyError(f"invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777",
                        hint="write an octal mode such as 755, or a symbolic one such as u=rwX,go=rX")
    steps: list[_Step] = []
    for clause in text.split(","):
        rest = clause.lstrip("ugoa")
        who = 0
        for letter in clause[:len(clause) - len(rest)]:
            who |= _WHO[letter]
        if not rest:
            raise _invalid(text)
        while rest:
            operator, rest = rest[0], rest[1:]
            permissions = rest[:len(rest) - len(rest.lstrip("rwxXstugo"))]
            rest = rest[len(permissions):]
            if operator not in "+-=":
                raise _invalid(text)
            steps += _action(operator, permissions, who)
    return Mode(steps=tuple(steps))


def _invalid(text: str) -> CopyError:
    return CopyError(f"invalid chmod parameter: '{text}': invalid syntax",
                     hint="write an octal mode such as 755, or a symbolic one such as u=rwX,go=rX")


def _action(operator: str, permissions: str, who: int) -> list[_Step]:
    """The steps of an operator and its letters for the classes `who` (0: none was named, which means all)."""
    steps: list[_Step] = []
    classes = who or 0o7777
    bits = any_x = 0
    clear = (who or _STANDARD) if operator == "=" else 0
    copied = False
    for letter in permissions:
        if letter in _SHIFT:
            if bits or any_x:
                steps.append(_step(operator, clear, bits & classes, any_x & classes))
            steps.append(_Step(bits=classes & 0o777, copy=letter, operator=operator))
            bits = any_x = 0
            copied = True
        elif letter == "X":
            any_x = 0o111
        elif letter == "s":
            bits |= _SET_ID if classes & ~0o007 else 0
        elif letter == "t":
            if classes & ~0o007:
                classes |= _STICKY
                bits |= _STICKY
                clear |= _STICKY if operator == "=" else 0
        else:
            bits |= _BITS[letter]
    if bits or any_x or (clear and not copied):
        steps.append(_step(operator, clear, bits & classes, any_x & classes))
    return steps


def _step(operator: str, clear: int, bits: int, any_x: int) -> _Step:
    if operator == "-":
        # `-X` takes nothing away: the letter only ever adds.
        return _Step(clear=bits)
    return _Step(clear=clear, bits=bits, any_x=any_x)


def _copy(mode: int, step: _Step) -> int:
    value = mode >> _SHIFT[step.copy] & 7
    if step.operator == "=":
        return mode & ~step.bits | value * 0o111 & step.bits
    if step.operator == "+":
        return mode | value * 0o111 & step.bits
    return mode & ~(value * 0o111 & step.bits)
