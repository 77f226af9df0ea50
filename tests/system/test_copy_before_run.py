"""Files that are copied and then used by a command: their layer is unpacked while it is packed, and not from its blob."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import Engine, Settings
from engine.errors import IsolationError
from engine.isolate.base import Environment, IdMap
from engine.layer.index import Index
from engine.snapshot.jobs import UnpackTask
from engine.upkeep import opened
from engine.workers.pool import WorkerPool

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

FILES = 300
LOOK = "find /app /other ! -name run -exec stat -c '%n %F %a %u %g %h' {} + | sort; find /app/tree -type f -exec sha1sum {} + | sort"


class Jobs:
    """What workers were asked for: their functions' names, and the diff ids of what was unpacked."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.unpacked: list[str] = []

    def from_changes(self) -> int:
        """How many layers were unpacked from the changes they are of."""
        return self.names.count("unpack_changed")


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Jobs:
    seen, call = Jobs(), WorkerPool.call

    async def watched(self: WorkerPool, function: Callable[..., Any], *arguments: object) -> Any:
        seen.names.append(function.__qualname__)
        if arguments and isinstance(arguments[0], UnpackTask):
            seen.unpacked.append(str(arguments[0].diff_id))
        return await call(self, function, *arguments)

    monkeypatch.setattr(WorkerPool, "call", watched)
    return seen


def many(folder: Path, dockerfile: str) -> Path:
    """A context with more files than what is packed without a worker."""
    context = write_context(folder, dockerfile)
    for n in range(FILES):
        place = context / "tree" / f"d{n % 9}" / f"f{n}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"%d" % n * 8000)
        place.chmod((0o644, 0o755, 0o600)[n % 3])
    (context / "tree/link").symlink_to("d1/f1")
    os.link(context / "tree/d2/f2", context / "tree/d3/same")
    for place in (context, *context.rglob("*")):
        os.utime(place, (1_500_000_000, 1_500_000_000), follow_symlinks=False)
    return context


async def test_the_command_sees_what_it_would_see_of_the_unpacked_layer(base: str, engine: Engine, memory: Path, jobs: Jobs) -> None:
    copies = f"FROM {base}\nCOPY --chown=app tree /app/tree\nWORKDIR /app/work\nADD tree/d4 /other/\n"
    context = many(memory / "app", f"{copies}RUN ({LOOK}) > /app/seen && test $(wc -l < /app/seen) -gt {2 * FILES}\n")
    exact = request(context, build_args={"SOURCE_DATE_EPOCH": "1600000000"}, rewrite_timestamp=True)
    at_once = await engine.build(exact)
    assert jobs.from_changes() == 1  # the tree; all else is small
    unpacked = set(jobs.unpacked)

    jobs.names.clear()
    (context / "Dockerfile").rename(context / "with-run")
    (context / "Dockerfile").write_text(copies)
    async with Engine(Settings(memory / "other")) as other:
        await other.build(exact)
        (context / "with-run").rename(context / "Dockerfile")
        later = await other.build(exact)
    assert len(set(jobs.unpacked) - unpacked) == 1  # the tree's
    assert jobs.from_changes() == 0
    assert (later.digest, later.ran) == (at_once.digest, 1)


async def test_only_what_a_command_stands_on(base: str, engine: Engine, memory: Path, jobs: Jobs) -> None:
    context = many(memory / "app", f"""\
FROM {base} AS files
COPY tree /tree
FROM {base} AS built
RUN mkdir /in
COPY tree /in/tree
RUN rm -r /in/tree/d3
FROM {base}
COPY --from=files /tree /tree
COPY --from=built /in /in
""")  # fmt: skip
    await engine.build(request(context))
    assert jobs.from_changes() == 1
    assert jobs.names.count("pack_changes") == 6


async def test_where_nothing_can_be_run_files_are_copied_all_the_same(base: str, memory: Path, jobs: Jobs,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    async def nothing(_: WorkerPool) -> Environment:
        return Environment(None, "overlay", IdMap("single"), reasons=("nothing is allowed here",))

    monkeypatch.setattr(WorkerPool, "environment", nothing)
    context = many(memory / "app", f"FROM {base}\nCOPY tree /tree\nRUN true\n")
    async with Engine(Settings(memory / "other")) as engine:
        with pytest.raises(IsolationError, match="RUN is not possible here: nothing is allowed here"):
            await engine.build(request(context))
    assert (jobs.names.count("pack_changes"), jobs.from_changes()) == (1, 0)


async def test_what_was_packed_with_digests_is_verified_with_them(base: str, memory: Path) -> None:
    context = many(memory / "app", f"FROM {base}\nCOPY tree /tree\nRUN test -e /tree/d1/f1\n")
    async with Engine(Settings(memory / "other")) as engine:
        await engine.build(request(context))

    async def findings() -> list[tuple[str, str]]:
        async with opened(Settings(memory / "other")) as upkeep:
            return [(finding.kind, finding.problem) for finding in (await upkeep.verify())[1]]

    assert await findings() == []
    wrong = 0
    for path in (memory / "other/indexes").glob("*/*"):
        index = Index.from_bytes(path.read_bytes())
        if any(index.columns.known):
            entries = [entry._replace(digest="0" * 64 if entry.digest else "") for entry in index.entries]
            path.write_bytes(Index(entries, index.files).to_bytes())
            wrong += 1
    assert wrong == 1
    assert await findings() == [("index", "it is not the index of the layer")]
