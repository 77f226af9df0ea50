"""`aniko version`."""

from __future__ import annotations

import argparse
import os
import sys

from engine import __version__

SUMMARY = "show the version"


def configure(parser: argparse.ArgumentParser) -> None:
    """There are no flags."""


def execute(arguments: argparse.Namespace) -> int:
    """Prints the package's version, and the interpreter's."""
    system = os.uname()
    print(f"aniko {__version__} (Python {sys.version.split()[0]}, {system.sysname.lower()}/{system.machine})")
    return 0
