"""`dataclass` as in `dataclasses`, but quick to make: for a frozen class with slots the standard decorator writes six functions and
has them compiled, which for the hundred and eighty classes of the engine takes a quarter of a build in which nothing has changed.
Here only `__init__` is compiled. What is asked for in any other way is left to the standard one.

To everyone else (`fields`, `replace`, `asdict`, pickle, match, type checkers) the classes are what the standard one makes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass"]

_MISSING = dataclasses.MISSING
_FIELD: Any = dataclasses._FIELD  # type: ignore[attr-defined]  # what `dataclasses.fields` knows a field by


def _dataclass(cls: type | None = None, /, *, frozen: bool = False, slots: bool = False, **options: Any) -> Any:
    def wrap(cls: type) -> type:
        if frozen and slots and not options and "__init__" not in vars(cls):
            return _make(cls)
        return dataclasses.dataclass(cls, frozen=frozen, slots=slots, **options)

    return wrap if cls is None else wrap(cls)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:
    dataclass = _dataclass


def _make(cls: type) -> type:
    fields: dict[str, dataclasses.Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        fields |= getattr(base, "__dataclass_fields__", {})
    inherited = set(fields)
    namespace = dict(vars(cls))
    for name, kind in namespace.get("__annotations__", {}).items():
        if isinstance(kind, str) and kind.startswith(("ClassVar", "typing.ClassVar", "InitVar")):
            raise TypeError(f"{cls.__name__}.{name}: only fields are known here")
        fields[name] = _field(name, kind, namespace.pop(name, _MISSING))
    for name in ("__dict__", "__weakref__"):
        namespace.pop(name, None)
    defaults = {name: field.default for name, field in fields.items() if field.default is not _MISSING}
    if any(type(default).__hash__ is None for default in defaults.values()):
        raise ValueError(f"{cls.__name__} has a mutable default: use a default factory")
    made = _functions(cls.__qualname__, fields, post_init=hasattr(cls, "__post_init__"))
    namespace = made | namespace | {
        "__slots__": tuple(name for name in fields if name not in inherited), "__dataclass_fields__": fields,
        "__match_args__": tuple(name for name, field in fields.items() if field.init and not field.kw_only),
        "__qualname__": cls.__qualname__,
        "__dataclass_params__": SimpleNamespace(init=True, repr=True, eq=True, order=False, unsafe_hash=False, frozen=True),
    }  # fmt: skip
    if "__eq__" in vars(cls) and "__hash__" in vars(cls) and vars(cls)["__hash__"] is None:
        namespace["__hash__"] = made["__hash__"]  # Python puts None beside an `__eq__`
    return type(cls)(cls.__name__, cls.__bases__, namespace)


def _field(name: str, kind: Any, given: Any) -> dataclasses.Field[Any]:
    field: Any = given if isinstance(given, dataclasses.Field) else dataclasses.field(default=given)
    field.name, field.type, field._field_type, field.kw_only = name, kind, _FIELD, False
    return field  # type: ignore[no-any-return]  # private attributes have no types


def _functions(qualname: str, fields: dict[str, dataclasses.Field[Any]], *, post_init: bool) -> dict[str, Any]:
    names = tuple(fields)
    values = _getter(names)
    compared = _getter(tuple(name for name, field in fields.items() if field.compare))
    hashed = _getter(tuple(name for name, field in fields.items() if (field.compare if field.hash is None else field.hash)))
    shown = tuple(name for name, field in fields.items() if field.repr)
    put = object.__setattr__

    def __eq__(self: Any, other: Any) -> Any:
        return compared(self) == compared(other) if other.__class__ is self.__class__ else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(hashed(self))

    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def __setattr__(self: Any, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self: Any, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __getstate__(self: Any) -> tuple[Any, ...]:
        return values(self)

    def __setstate__(self: Any, state: tuple[Any, ...]) -> None:
        for name, value in zip(names, state, strict=True):
            put(self, name, value)

    return {"__init__": _init(qualname, fields, post_init=post_init), "__eq__": __eq__, "__hash__": __hash__, "__repr__": __repr__,
            "__setattr__": __setattr__, "__delattr__": __delattr__, "__getstate__": __getstate__, "__setstate__": __setstate__}


def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that gives the values of some attributes."""
    if len(names) > 1:
        return attrgetter(*names)
    if names:
        only = attrgetter(names[0])
        return lambda value: (only(value),)
    return lambda value: ()


def _init(qualname: str, fields: dict[str, dataclasses.Field[Any]], *, post_init: bool) -> Any:
    known: dict[str, Any] = {"_put": object.__setattr__, "_missing": _MISSING}
    parameters: list[str] = []
    by_name: list[str] = []  # fields of a base that can be given by name only
    body = []
    for name, field in fields.items():
        value = name
        if field.default_factory is not _MISSING:
            known[f"_make_{name}"] = field.default_factory
            value = f"_make_{name}() if {name} is _missing else {name}" if field.init else f"_make_{name}()"
        elif field.default is not _MISSING:
            known[f"_default_{name}"] = field.default
            value = name if field.init else f"_default_{name}"
        if field.init:
            default = "=_missing" if f"_make_{name}" in known else f"=_default_{name}" if f"_default_{name}" in known else ""
            (by_name if field.kw_only else parameters).append(name + default)
        body.append(f" _put(self, {name!r}, {value})")
    if post_init:
        body.append(" self.__post_init__()")
    parameters += ["*", *by_name] if by_name else []
    exec(f"def __init__(self, {', '.join(parameters)}):\n" + ("\n".join(body) or " pass"), known)
    known["__init__"].__qualname__ = f"{qualname}.__init__"
    return known["__init__"]
