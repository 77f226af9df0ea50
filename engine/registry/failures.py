"""What is said when an exchange with a registry fails, whoever carried it out: errors for people, `TransientError` when it may
pass."""

from __future__ import annotations

import os
import socket
import ssl

from engine.errors import RegistryError
from engine.registry.exchange import Request
from engine.registry.retry import TransientError
from engine.registry.rules import clean, origin


def untrusted(request: Request, reason: str) -> RegistryError:
    """The certificate is not good."""
    return RegistryError(f"the TLS certificate of {_place(request)} is not trusted: {clean(reason)} ({request.what})",
                         hint=f"trust the authority that issued it, or use --insecure-registry {request.registry}")


def bad_tls(request: Request, error: ssl.SSLError) -> RegistryError:
    """TLS has failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return untrusted(request, error.verify_message or str(error))
    return no_tls(request, error.reason or str(error))


def no_tls(request: Request, reason: str) -> RegistryError:
    """There is something that does not speak TLS, or not as it should."""
    words = clean(reason).replace("_", " ").lower()
    plain = any(sign in words for sign in ("version number", "record layer", "unexpected eof"))
    hint = f"if it speaks http only, use --insecure-registry {request.registry}" if plain else None
    return RegistryError(f"no TLS connection to {_place(request)}: {words} ({request.what})", hint=hint)


def hung_up(request: Request, error: ssl.SSLError) -> TransientError:
    """The connection was ended before it was encrypted: by what does not speak TLS, or by one that has too much to do."""
    said = no_tls(request, error.reason or "unexpected EOF while reading")
    return TransientError(said.message, hint=said.hint, reached=False)


def no_name(request: Request, error: OSError, via: str = "") -> RegistryError:
    """The name of the host, or of what is on the way there (`the proxy of `), is not known, or not now."""
    message = f"cannot reach {via}{_place(request)}: its name cannot be found ({words(error)}) ({request.what})"
    return TransientError(message, reached=False) if error.errno == socket.EAI_AGAIN else RegistryError(message)


def unreachable(request: Request, error: OSError, via: str = "") -> TransientError:
    """No connection to the host, or to what is on the way there (`the proxy of `)."""
    return TransientError(f"cannot reach {via}{_place(request)}: {words(error)} ({request.what})", reached=False)


def too_slow(request: Request) -> TransientError:
    """No connection in the time that there is for it."""
    return TransientError(f"cannot reach {_place(request)}: no connection in time ({request.what})", reached=False)


def not_asked(request: Request, error: Exception) -> RegistryError:
    """The request cannot be sent to anybody."""
    return RegistryError(f"{_place(request)} cannot be asked: {clean(str(error))} ({request.what})")


def no_http(request: Request, reason: str) -> RegistryError:
    """The answer is none."""
    return RegistryError(f"{_place(request)} does not speak HTTP: {clean(reason, 100)} ({request.what})")


def refused_by_proxy(request: Request, status: int) -> RegistryError:
    """The proxy does not let it through."""
    return RegistryError(f"the proxy refuses to connect to {_place(request)}: status {status} ({request.what})", status=status)


def broken(request: Request, reason: str) -> TransientError:
    """The connection ended, or stood still, before the answer was whole."""
    return TransientError(f"the connection to {_place(request)} broke: {reason} ({request.what})")


def too_long(request: Request, limit: int, status: int) -> RegistryError:
    """The body is longer than anybody wants to read."""
    return RegistryError(f"registry {request.registry} sent more than {limit} bytes ({request.what})", status=status)


def words(error: OSError) -> str:
    """A system's error in its own words, or one of TLS."""
    if isinstance(error, ssl.SSLError):
        return clean((error.reason or str(error)).replace("_", " ")).lower()
    if isinstance(error, socket.gaierror) or not error.errno:
        return clean(error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower()


def _place(request: Request) -> str:
    host, registry = origin(request.url)[1], request.registry
    named = host in (registry, f"registry-1.{registry}")
    return f"registry {registry}" if named else f"{host} (for registry {registry})"
