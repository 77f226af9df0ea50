"""What is trusted: the TLS contexts of one client. Each is made when the first connection needs it, for reading all the authorities
of the system takes a while."""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.errors import UsageError


class Contexts:
    """The contexts of one client. `ca_file` holds certificates to trust besides the system's."""

    def __init__(self, ca_file: Path | None) -> None:
        self._ca_file = ca_file
        self._made: dict[bool, ssl.SSLContext] = {}

    def get(self, verify: bool) -> ssl.SSLContext:
        """The one that wants a good certificate, or the one that takes any. Raises `UsageError` when `ca_file` cannot be read."""
        if verify not in self._made:
            self._made[verify] = self._verifying() if verify else ssl._create_unverified_context()
        return self._made[verify]

    def _verifying(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._ca_file:
            try:
                context.load_verify_locations(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"cannot read certificates from {self._ca_file}: {error.strerror or error}") from error
        return context
