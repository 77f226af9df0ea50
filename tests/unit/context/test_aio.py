"""What the import of aiohttp leaves for later is done when it is needed. In a process of its own: the import happens once."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import ssl
counts = []
read = ssl.SSLContext.set_default_verify_paths
from engine.context.aio import aiohttp
assert ssl.SSLContext.set_default_verify_paths is read, "the class is as it was"
from aiohttp.connector import _SSL_CONTEXT_VERIFIED as context
ssl.SSLContext.set_default_verify_paths = lambda self: counts.append(self)
for _ in range(2):
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    print(len(counts), context.verify_mode.name, context.check_hostname)
"""


def test_the_authorities_are_read_at_the_first_connection_and_once() -> None:
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert said.stdout.split("\n")[:2] == ["1 CERT_REQUIRED True"] * 2
