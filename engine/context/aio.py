"""aiohttp, imported without what makes that slow: while it is imported it makes two TLS contexts, and reading the certificates of
all the authorities for them takes as long as the rest of the import, also where nobody speaks TLS.

The contexts that it gets here read them when the first connection is made with them, and then are what they would have been.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["aiohttp"]


def _read_later(context: ssl.SSLContext) -> None:
    """In place of `SSLContext.set_default_verify_paths`, which is called when a connection begins instead."""

    def first(name: str) -> Callable[..., Any]:
        def wrap(*args: Any, **options: Any) -> Any:
            for each in ("wrap_bio", "wrap_socket"):
                vars(context).pop(each, None)
            context.set_default_verify_paths()
            return getattr(context, name)(*args, **options)

        return wrap

    vars(context).update(wrap_bio=first("wrap_bio"), wrap_socket=first("wrap_socket"))


@contextmanager
def _late_authorities() -> Iterator[None]:
    ssl.SSLContext.set_default_verify_paths = _read_later  # type: ignore[assignment,method-assign]  # hides the method it inherits
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths


with _late_authorities():
    import aiohttp
