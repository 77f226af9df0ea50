"""The parts of the engine alone, in this process: unpack, pack, walk, hash, key, parse, and what a start costs.

Processor time stands beside wall time: on a machine that does other things, only the former says much.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from perf import inputs

RUNS = 3


def main(memory: Path, results: Path, scale: float) -> None:
    """Measures all parts, and writes micro.json and micro.md."""
    made = inputs.make(memory / "aniko-bench", scale)
    place = Path(tempfile.mkdtemp(prefix="micro-", dir=memory))
    try:
        rows = {name: _measure(work) for name, work in _parts(made, place).items()}
    finally:
        shutil.rmtree(place)
    results.mkdir(parents=True, exist_ok=True)
    (results / "micro.json").write_text(json.dumps({"load": os.getloadavg(), "scale": scale, "runs": rows}, indent=1) + "\n")
    lines = ["# Parts", "", f"Medians of {RUNS} runs in one process; load {os.getloadavg()[0]:.1f}; inputs at scale {scale}.", "",
             "| part | seconds | CPU s |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {median(r[0] for r in runs):.3f} | {median(r[1] for r in runs):.3f} |" for name, runs in rows.items()]
    text = "\n".join(lines) + "\n"
    (results / "micro.md").write_text(text)
    print(text)


def _measure(work: Callable[[], object]) -> list[tuple[float, float]]:
    out = []
    for _ in range(RUNS):
        began, cpu = time.perf_counter(), _cpu()
        work()
        out.append((time.perf_counter() - began, _cpu() - cpu))
    return out


def _cpu() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _parts(made: inputs.Inputs, place: Path) -> dict[str, Callable[[], object]]:
    from engine.context.directory import DirectoryTree
    from engine.dockerfile.parser import parse
    from engine.layer.hashing import hash_ranges
    from engine.layer.index import Index
    from engine.layer.scan import scan
    from engine.layer.unpack import unpack
    from engine.solve.copying.digest import copied_digest_items
    from engine.solve.copying.draft import EmptyTree
    from engine.solve.copying.plan import CopyPlan
    from engine.solve.copying.request import CopyRequest

    root = place / "root"

    def fresh(blob: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        unpack(str(blob), str(root))

    def walk() -> DirectoryTree:
        tree = DirectoryTree(str(made.tree))
        todo = [b""]
        while todo:
            path = todo.pop()
            for name in tree.children(path):
                child = path + b"/" + name if path else name
                entry = tree.get(child)
                if entry is not None and entry.kind == "dir":
                    todo.append(child)
        return tree

    walked = walk()

    def plan() -> CopyPlan:
        copy = CopyPlan(CopyRequest((b"/",), b"/app/", b"/"), EmptyTree())
        copy.add_sources(walked)
        return copy

    copied = plan().result()
    files = [c.from_path for c in copied if c.from_path is not None]
    entries = [c.entry for c in copied]
    digests = dict.fromkeys(files, "0" * 64)
    dockerfile = b"FROM debian\n" + b"".join(b"RUN echo %d \\\n && true\nCOPY a%d /b\n" % (n, n) for n in range(500))
    index = Index(entries).to_bytes()
    return {
        "unpack the 8.7 k-file base": lambda: fresh(made.small[0][0]),
        "unpack the 40 k-file layer": lambda: fresh(made.big[2][0]),
        "scan the 8.7 k-file base (index only)": lambda: scan(str(made.small[0][0])),
        "walk 40 k files": walk,
        "plan a copy of 40 k files": lambda: plan().result(),
        "hash 40 k files": lambda: hash_ranges([(*walked.source(path), entry.size) for path in files
                                                if (entry := walked.get(path)) is not None]),
        "key of a copy of 40 k files (digests known)": lambda: b"".join(copied_digest_items(copied, digests)),
        "pack 40 k files": lambda: _pack([(c.entry, *walked.source(c.from_path)) if c.from_path is not None else (c.entry, None, 0)
                                          for c in copied], place),
        "pack one file of 1 GiB": lambda: _pack([_file(made.file)], place),
        "index of 40 k entries to bytes": lambda: Index(entries).to_bytes(),
        "index of 40 k entries from bytes": lambda: Index.from_bytes(index).entries,
        "parse 1000 instructions": lambda: parse(dockerfile, "Dockerfile"),
        "start: aniko build --help": lambda: _python("-m", "engine.cli", "build", "--help"),
        "start: import of all that a pushing build needs": lambda: _python(
            "-c", "from engine.cli import build, inputs, loop; from engine import Engine; import engine.registry.session, uvloop"),
    }  # fmt: skip


def _file(path: Path) -> tuple[object, bytes, int]:
    from engine.layer.entries import Entry

    return Entry(b"big.bin", "file", 0o644, size=path.stat().st_size), os.fsencode(path), 0


def _pack(rows: list[tuple[object, bytes | None, int]], place: Path) -> None:
    from engine.layer.entries import Change
    from engine.layer.pack import pack

    pack([Change(*row) for row in rows], str(place / "blob"))  # type: ignore[arg-type]  # rows are entries, sources, offsets


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
