"""`aniko registry`: serves images from a directory, for trying things and for machines without a network."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.paths import state_dir
from engine.errors import UsageError

if TYPE_CHECKING:
    from engine.registry.server.access import BasicAuth
    from engine.registry.server.transfer import Exchange

SUMMARY = "serve images from a directory on this machine"

_LISTEN = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\s]+)?:([0-9]{1,5})")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--dir", metavar="DIR", help="where the images are kept (default: registry in the state directory)")
    parser.add_argument("--state-dir", metavar="DIR", help="the state directory (default: ANIKO_STATE_DIR, else XDG's)")
    parser.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:5000", help="default: %(default)s; port 0: any")
    parser.add_argument("--read-only", action="store_true", help="refuse whatever would change something")
    parser.add_argument("--user", metavar="NAME", help="ask for this user name and the password in --password-file")
    parser.add_argument("--password-file", metavar="FILE", help="a file whose first line is the password")
    parser.add_argument("--verbose", action="store_true", help="tell each request on standard error when it arrives")


def execute(arguments: argparse.Namespace) -> int:
    """Serves until SIGINT or SIGTERM; raises `UsageError` for a port that is taken, `StorageError` for a directory that cannot
    be written."""
    import asyncio

    host, port = _address(arguments.listen)
    directory = Path(arguments.dir) if arguments.dir else state_dir(arguments.state_dir, os.environ) / "registry"
    auth = _auth(arguments.user, arguments.password_file)
    serving = _serve(directory.absolute(), host, port, arguments.read_only, auth, arguments.verbose)
    # Not uvloop: it has no sendfile, and serves large blobs at half the speed (though small requests 1.4 times as fast)
    asyncio.run(serving)
    return 0


async def _serve(directory: Path, host: str, port: int, read_only: bool, auth: BasicAuth | None, verbose: bool) -> None:
    import anyio

    from engine.registry.server.server import RegistryServer

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        server = RegistryServer(directory, host=host, port=port, auth=auth, read_only=read_only, grace=3.0,
                                on_request=_tell if verbose else None)  # fmt: skip
        async with server:
            print(f"aniko registry: serving {directory} at http://{server.address}", flush=True)
            async for _ in signals:
                break


def _tell(exchange: Exchange) -> None:
    print(exchange.method, exchange.path + (f"?{exchange.query}" if exchange.query else ""), file=sys.stderr, flush=True)


def _address(text: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(text)
    if not match or int(match[2]) > 65535:
        raise UsageError(f"invalid address {text!r}", hint="use --listen HOST:PORT, as in 127.0.0.1:5000")
    return (match[1] or "127.0.0.1").strip("[]"), int(match[2])


def _auth(user: str | None, password_file: str | None) -> BasicAuth | None:
    if not user and not password_file:
        return None
    if not user or not password_file:
        raise UsageError("--user and --password-file go together")
    try:
        password = Path(password_file).read_text().partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the password file {password_file}: {error}") from error
    if not password:
        raise UsageError(f"the first line of the password file {password_file} is empty")
    from engine.registry.server.access import BasicAuth

    return BasicAuth({user: password})
