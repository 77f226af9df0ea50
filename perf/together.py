"""Many builds in one process: python perf/together.py STATE_DIR CONTEXTS COUNT REGISTRY

CONTEXTS has a directory for each build, 0, 1, …; the images are pushed as REGISTRY/together/0:1, ….
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from engine import BuildRequest, Engine, OutputRequest, Reference, Settings


async def _together(state: Path, contexts: Path, count: int, address: str) -> None:
    async with Engine(Settings(state_dir=state)) as engine, anyio.create_task_group() as builds:
        for n in range(count):
            tag = Reference.parse(f"{address}/together/{n}:1")
            builds.start_soon(engine.build, BuildRequest(context=str(contexts / str(n)), tags=(tag,),
                                                         outputs=(OutputRequest("registry"),)))  # fmt: skip


def main() -> None:
    """Builds them all at the same time."""
    state, contexts, count, address = sys.argv[1:]
    anyio.run(_together, Path(state), Path(contexts), int(count), address)


if __name__ == "__main__":
    main()
