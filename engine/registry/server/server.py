"""The registry as something to start and stop, in the event loop of whoever uses it."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

import anyio
from aiohttp import web
from anyio import to_thread

from engine.errors import UsageError
from engine.registry.server.access import BasicAuth, TokenAuth
from engine.registry.server.app import make_app
from engine.registry.server.faults import Fault, FaultPlan
from engine.registry.server.state import State
from engine.registry.server.storage import Storage
from engine.registry.server.transfer import Exchange
from engine.registry.server.uploads import Uploads

_THREADS = 4
_BUFFER = 1 << 20
_LOGGED = 100_000


class RegistryServer:
    """A registry that serves a directory over http.

        async with RegistryServer(tmp_path) as registry:
            reference = Reference.parse(f"{registry.address}/app:1")

    `port` 0 takes any free one. `requests` is the log, the latest 100,000 requests, and `on_request` is called with each when
    it arrives. Entering raises `UsageError` when the address cannot be had and `StorageError` when the directory cannot be
    written. On leaving, requests that are under way have `grace` seconds to end.
    """

    def __init__(self, root: Path, *, host: str = "127.0.0.1", port: int = 0, faults: Iterable[Fault] = (),
                 auth: TokenAuth | BasicAuth | None = None, read_only: bool = False, grace: float = 0.5,
                 on_request: Callable[[Exchange], None] | None = None) -> None:
        self.storage = Storage(root)
        self.auth = auth
        self.faults = FaultPlan(faults)
        self.log: deque[Exchange] = deque(maxlen=_LOGGED)
        self._host, self._port, self._read_only, self._grace = host, port, read_only, grace
        self._on_request = on_request
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """HOST:PORT, as it goes into a reference."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the registry is not running")
        host, port = self._runner.addresses[0][:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    @property
    def requests(self) -> tuple[Exchange, ...]:
        """What has been asked so far, oldest first."""
        return tuple(self.log)

    def add_fault(self, fault: Fault) -> None:
        """One more thing to go wrong."""
        self.faults.add(fault)

    async def __aenter__(self) -> RegistryServer:
        await to_thread.run_sync(self.storage.open)
        disk = anyio.CapacityLimiter(_THREADS)
        state = State(self.storage, Uploads(self.storage, disk), self.faults, disk, self.auth, self._read_only)
        app = make_app(state, self._record)
        # A body is stored as it came: never inflated because a header says so
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=self._grace, read_bufsize=_BUFFER, auto_decompress=False)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise _unusable(self._host, self._port, error) from error
        self._runner = runner
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        traceback: TracebackType | None) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()

    def _record(self, exchange: Exchange) -> None:
        self.log.append(exchange)
        if self._on_request:
            self._on_request(exchange)


def _unusable(host: str, port: int, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(f"port {port} of {host} is in use", hint="choose another with --listen HOST:PORT; 0 takes any")
    return UsageError(f"cannot listen at {host}:{port}: {error.strerror or error}", hint="use --listen HOST:PORT")
