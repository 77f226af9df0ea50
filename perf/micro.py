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
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from engine.solve.copying.request import CopyRequest
from perf import inputs
from perf.picture import Bar, picture
from perf.results import machine

if TYPE_CHECKING:
    from engine.context.directory import DirectoryTree
    from engine.layer.changes import Changes
    from engine.solve.copying.copies import Copies

RUNS = 3
_REQUEST = CopyRequest((b"/",), b"/app/", b"/")
_SAMPLE = 128 << 20
"""Bytes of the big file whose blob is compared with gzip -6's."""


def main(memory: Path, results: Path, scale: float) -> None:
    """Measures all parts, and writes micro.json, micro.md and micro.svg."""
    load = os.getloadavg()
    made = inputs.make(memory / "aniko-bench", scale)
    place = Path(tempfile.mkdtemp(prefix="micro-", dir=memory))
    try:
        rows = {name: _measure(work) for name, work in _parts(made, place).items()}
        blobs = dict(_blobs(made, place))
    finally:
        shutil.rmtree(place)
    results.mkdir(parents=True, exist_ok=True)
    about = {"when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": machine(), "load": load, "scale": scale}
    (results / "micro.json").write_text(json.dumps({**about, "runs": rows, "blobs": blobs}, indent=1) + "\n")
    lines = ["# Parts", "", f"Medians of {RUNS} runs in one process; load before them {load[0]:.1f}; inputs at scale {scale}.", "",
             "| part | seconds | CPU s |", "|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {median(r[0] for r in runs):.3f} | {median(r[1] for r in runs):.3f} |" for name, runs in rows.items()]
    lines += ["", "Sizes of blobs, beside those of the same bytes through gzip -6:", "", "| blob | MB | gzip -6 | ratio |",
              "|---|---|---|---|"]  # fmt: skip
    lines += [f"| {name} | {ours / 1e6:.1f} | {theirs / 1e6:.1f} | {ours / theirs:.3f} |" for name, (ours, theirs) in blobs.items()]
    bars = [Bar(name, {"wall time": median(r[0] for r in runs), "processors": median(r[1] for r in runs)})
            for name, runs in rows.items()]  # fmt: skip
    (results / "micro.svg").write_text(picture("Parts: seconds, median", bars, ["wall time", "processors"], left=330, low=0.005))
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
    from engine.dockerfile.parser import parse
    from engine.layer.hashing import hash_ranges
    from engine.layer.index import Index
    from engine.layer.pack import pack_changes
    from engine.layer.scan import scan
    from engine.layer.unpack import unpack
    from engine.solve.copying.fingerprint import fingerprinted

    root = place / "root"

    def fresh(blob: Path) -> None:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        unpack(str(blob), str(root))

    walked, later = _walk(made.tree), _walk(made.tree)
    copied = _plan(walked)
    files = [c.from_path for c in copied if c.from_path is not None]
    entries = [c.entry for c in copied]
    for graft in copied.grafts:
        graft.subtree.learn(b"1" * 32 * len(graft.subtree))
    dockerfile = b"FROM debian\n" + b"".join(b"RUN echo %d \\\n && true\nCOPY a%d /b\n" % (n, n) for n in range(500))
    index = Index(entries).to_bytes()
    return {
        "unpack the 8.7 k-file base": lambda: fresh(made.small[0][0]),
        "unpack the 40 k-file layer": lambda: fresh(made.big[2][0]),
        "scan the 8.7 k-file base (index only)": lambda: scan(str(made.small[0][0])),
        "walk 40 k files": lambda: _walk(made.tree),
        "plan a copy of 40 k files": lambda: _plan(walked),
        "hash 40 k files": lambda: hash_ranges([(*walked.source(path), entry.size) for path in files
                                                if (entry := walked.get(path)) is not None]),
        "key of a copy of 40 k files (digests known)": lambda: _key(copied),
        "that key, with its ingredients for people": lambda: _listing(copied),
        "fingerprint of 40 k files": lambda: fingerprinted(_REQUEST, later),
        "columns of the changes of 40 k files": lambda: _changes(later),
        "pack 40 k files": lambda: pack_changes(_changes(later), str(place / "blob")),
        "pack 40 k files, with a digest of each": lambda: pack_changes(_changes(later), str(place / "blob"), hash_files=True),
        "pack one file of 1 GiB": lambda: _pack([_file(made.file)], place),
        "index of 40 k entries to bytes": lambda: Index(entries).to_bytes(),
        "index of 40 k entries from bytes": lambda: Index.from_bytes(index).entries,
        "parse 1000 instructions": lambda: parse(dockerfile, "Dockerfile"),
        "start: aniko build --help": lambda: _python("-m", "engine.cli", "build", "--help"),
        "start: import of all that a pushing build needs": lambda: _python(
            "-c", "from engine.cli import build, inputs, loop; from engine import Engine; import engine.registry.session, uvloop"),
    }  # fmt: skip


def _key(copied: Copies) -> str:
    from engine.solve.copying.digest import Dependence

    return Dependence(copied).digest({})


def _listing(copied: Copies) -> Mapping[str, str]:
    from engine.solve.copying.digest import Dependence

    on = Dependence(copied)
    on.digest({})
    return on.listing()


def _walk(top: Path) -> DirectoryTree:
    from engine.context.directory import DirectoryTree

    tree = DirectoryTree(str(top))
    tree.subtree(b"")
    return tree


def _plan(walked: DirectoryTree) -> Copies:
    from engine.solve.copying.draft import EmptyTree
    from engine.solve.copying.plan import CopyPlan

    copy = CopyPlan(_REQUEST, EmptyTree())
    copy.add_sources(walked)
    return copy.result()


def _changes(walked: DirectoryTree) -> Changes:
    from engine.solve.steps.rows import Rows

    return Rows(_plan(walked), walked.source, walked.source, None).take()


def _blobs(made: inputs.Inputs, place: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """What is packed → bytes of the engine's blob, and of gzip -6's of the same files."""
    from engine.layer.pack import pack_changes
    from engine.layer.unpack import unpack

    root, blob = place / "again", place / "blob"
    root.mkdir()
    unpack(str(made.big[2][0]), str(root))
    walked = _walk(root)
    pack_changes(_changes(walked), str(blob))
    yield "the 40 k-file layer", (blob.stat().st_size, made.big[2][0].stat().st_size)
    sample = place / "big.bin"
    with open(made.file, "rb") as file:
        sample.write_bytes(file.read(_SAMPLE))
    _pack([_file(sample)], place)
    yield f"the first {_SAMPLE >> 20} MiB of the big file", (blob.stat().st_size, len(zlib.compress(sample.read_bytes(), 6)))


def _file(path: Path) -> tuple[object, bytes, int]:
    from engine.layer.entries import Entry

    return Entry(b"big.bin", "file", 0o644, size=path.stat().st_size), os.fsencode(path), 0


def _pack(rows: list[tuple[object, bytes | None, int]], place: Path) -> None:
    from engine.layer.entries import Change
    from engine.layer.pack import pack

    pack([Change(*row) for row in rows], str(place / "blob"))  # type: ignore[arg-type]  # rows are entries, sources, offsets


def _python(*words: str) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
