"""The cases of the conformance corpus that need no RUN, planned and compared with what BuildKit made, file by file."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from engine.context.directory import DirectoryTree
from engine.dockerfile.ignore import IgnoreMatcher, parse_patterns
from engine.dockerfile.instructions import Copy, User, Workdir
from engine.dockerfile.parser import parse
from engine.layer.entries import Change, Entry
from engine.solve.copying import CopyPlan, CopyRequest, find_sources, plan_workdir

from .conftest import MemoryTree

CORPUS = Path(__file__).resolve().parents[2] / "conformance"
IDS = {"app": 1000, "daemon": 1, "root": 0, "multi": 1001, "staff": 50, "extra": 2001}
KINDS = {tarfile.DIRTYPE: "dir", tarfile.SYMTYPE: "symlink", tarfile.LNKTYPE: "hardlink"}


def planned(name: str) -> bool:
    """Whether a case has nothing but FROM, COPY, ADD, WORKDIR and USER in it, and no archive."""
    text = (CORPUS / "cases" / name / "Dockerfile").read_text()
    words = {line.split(" ")[0] for line in text.splitlines() if line[:1].isupper()}
    known = {"ARG", "FROM", "COPY", "ADD", "WORKDIR", "USER", "EOF", "A", "B"}
    return words <= known and not name.startswith(("add-tar", "add-unpack"))


CASES = sorted(p.parent.name for p in CORPUS.glob("cases/*/Dockerfile")
               if p.parent.name.startswith(("copy-", "add-", "ignore-", "workdir-")) and planned(p.parent.name))

needs = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("busybox") is None, reason="needs root and busybox")


@pytest.fixture(scope="session")
def base_of(applied):
    known: dict[str, MemoryTree] = {"scratch": MemoryTree()}

    def tree(name: str) -> MemoryTree:
        if name not in known:
            spec = importlib.util.spec_from_file_location("corpus_bases", CORPUS / "bases.py")
            bases = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(bases)
            layers = bases.describe(name)[0][2]
            out = MemoryTree()
            for data, _ in layers:
                out = applied(out, [as_whiteout(entry) for entry in entries_of(data)])
            known[name] = out
        return known[name]

    return tree


def as_whiteout(entry: Entry) -> Entry:
    above, slash, name = entry.path.rpartition(b"/")
    if name == b".wh..wh..opq":
        return Entry(above, "opaque")
    return Entry(above + slash + name[4:], "whiteout") if name.startswith(b".wh.") else entry


def entries_of(data: bytes) -> list[Entry]:
    out = []
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            kind = KINDS.get(member.type, "file")
            content = tar.extractfile(member).read() if kind == "file" else b""
            xattrs = tuple((k.removeprefix("SCHILY.xattr."), v.encode("utf-8", "surrogateescape"))
                           for k, v in member.pax_headers.items() if k.startswith("SCHILY"))
            digest = hashlib.sha256(content).hexdigest() if kind == "file" else ""
            out.append(Entry(member.name.encode(), kind, member.mode, member.uid, member.gid, len(content), 0,
                             member.linkname.encode(), digest, xattrs=xattrs))
    return out


def owner_of(text: str) -> tuple[int, int]:
    user, colon, group = text.partition(":")
    uid = int(user) if user.isdigit() else IDS.get(user, 0)
    return uid, (int(group) if group.isdigit() else IDS.get(group, 0)) if colon else uid


class Build:
    """A Dockerfile's files, by plans alone."""

    def __init__(self, context: DirectoryTree, directory: Path, base_of, applied) -> None:
        self.context, self.directory, self.base_of, self.applied = context, directory, base_of, applied
        self.stages: dict[str, MemoryTree] = {}

    def run(self, text: bytes) -> MemoryTree:
        dockerfile = parse(text)
        for number, block in enumerate(dockerfile.stages):
            self.image = self.source(block.origin.image)
            self.workdir, self.user = "/", "0"
            for instruction in block.instructions:
                if isinstance(instruction, User):
                    self.user = instruction.user
                elif isinstance(instruction, Workdir):
                    self.workdir = os.path.join(self.workdir, instruction.path)
                    changes = plan_workdir(self.workdir.encode(), owner_of(self.user), self.image, 0)
                    self.image = self.applied(self.image, [c.entry for c in changes])
                elif isinstance(instruction, Copy):
                    self.copy(instruction)
            self.stages[str(number)] = self.stages[block.origin.name or str(number)] = self.image
        return self.image

    def source(self, name: str) -> MemoryTree:
        return self.stages[name] if name in self.stages else self.base_of(name.rpartition("/")[2].partition(":")[0])

    def copy(self, op: Copy) -> None:
        tree = self.source(op.from_) if op.from_ else self.context
        request = CopyRequest(
            tuple(s.encode() for s in op.sources), op.destination.encode(), self.workdir.encode(),
            owner=owner_of(op.chown) if op.chown else None, mode=op.chmod or None, keep_owner=bool(op.from_),
            parents=op.parents,
            exclude=op.exclude, link=op.link)
        plan = CopyPlan(request, self.image)
        if op.add:
            for text in request.sources:
                for found in find_sources(tree, text):
                    plan.add_source(tree, found)
        else:
            plan.add_sources(tree)
        for heredoc in op.heredocs:
            path = self.directory / heredoc.name
            path.write_text(heredoc.content)
            entry = Entry(heredoc.name.encode(), "file", 0o644, size=len(heredoc.content.encode()))
            plan.add_file(entry.path, Change(entry, bytes(path)))
        entries = []
        for copied in plan.result():
            entry = copied.entry
            if entry.kind == "file" and not entry.digest:
                path = copied.source[0] if copied.source else tree.source(copied.from_path)[0]
                data = Path(os.fsdecode(path)).read_bytes()
                assert len(data) == entry.size
                entry = entry._replace(digest=hashlib.sha256(data).hexdigest())
            entries.append(entry)
        self.image = self.applied(self.image, entries)


def described(tree: MemoryTree) -> dict[str, dict]:
    """A tree in the words of the oracle."""
    out: dict[str, dict] = {}
    groups: dict[object, list[str]] = {}
    for path, entry in sorted(tree.entries.items()):
        if not path:
            continue
        name = "/" + path.decode("utf-8", "surrogateescape")
        node: dict = {"type": entry.kind, "uid": entry.uid, "gid": entry.gid}
        if entry.kind == "symlink":
            node["link"] = entry.link.decode("utf-8", "surrogateescape")
        else:
            node["mode"] = f"{entry.mode:04o}"
        if entry.kind == "file":
            node |= {"size": entry.size, "sha256": entry.digest}
            capability = dict(entry.xattrs).get("security.capability")
            if capability:
                node["xattrs"] = {"security.capability": capability.hex()}
            if tree.identity(path) is not None:
                groups.setdefault(tree.identity(path), []).append(name)
        out[name] = node
    for names in groups.values():
        for name in names if len(names) > 1 else ():
            out[name]["hardlink"] = min(names)
    return out


@needs
@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_what_buildkit_makes(name, tmp_path, base_of, applied):
    case, oracle = CORPUS / "cases" / name, json.loads((CORPUS / "oracle" / f"{name}.json").read_text())
    spec = json.loads((case / "case.json").read_text())
    context = tmp_path / "context"
    dockerfile = context / spec.get("dockerfile", "Dockerfile")
    dockerfile.parent.mkdir(parents=True)
    dockerfile.write_bytes((case / "Dockerfile").read_bytes())
    if (case / "setup.sh").exists():
        subprocess.run(["bash", "-euc", f"umask 022; . {case}/setup.sh"], cwd=context, check=True)
    rules = Path(f"{dockerfile}.dockerignore")
    rules = rules if rules.exists() else context / ".dockerignore"
    matcher = IgnoreMatcher(parse_patterns(rules.read_bytes())) if rules.exists() else None
    image = Build(DirectoryTree(str(context), matcher), tmp_path, base_of, applied).run(dockerfile.read_bytes())
    base = described(base_of(oracle.get("base") or "scratch"))
    new = {path: node for path, node in described(image).items() if base.get(path) != node}
    wanted = {path: {k: v for k, v in node.items() if k not in ("text", "mtime")} for path, node in oracle["files"].items()}
    # Ours has the Dockerfile of the corpus as it is, BuildKit saw one with a registry's name in it.
    for path in [p for p, node in new.items() if p.endswith("Dockerfile") and p in wanted]:
        del new[path], wanted[path]
    assert new == {path: node for path, node in wanted.items() if base.get(path) != node}
