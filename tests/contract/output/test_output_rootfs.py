"""The root filesystem as a tar and as a directory: what is left of the layers, and nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.content.store import DirectoryStore
from engine.errors import ContentError, CopyError, EngineError, StorageError
from engine.layer.apply import apply_layer, scan
from engine.output.place import Place
from engine.output.rootfs import LocalOutput, TarOutput
from tests.contract.output.conftest import Maker, member

BIG = bytes(range(256)) * 12_000  # more than a piece


def directory(name: str, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE, **({"mode": 0o755} | fields)), b""


def link(name: str, target: str, *, hard: bool = False) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE if hard else tarfile.SYMTYPE, linkname=target), b""


LOWER = [
    directory("etc", mode=0o750, uid=3, gid=4), (member("etc/passwd", uid=7, gid=8), b"root"), (member("etc/gone"), b"gone"),
    directory("dir"), (member("dir/hidden"), b"hidden"), (member("dir/kept"), b"kept"),
    directory("opaque"), (member("opaque/old"), b"old"), directory("opaque/below"), (member("opaque/below/x"), b"x"),
    (member("one"), b"names"), link("two", "one", hard=True), link("three", "one", hard=True),
    directory("usr"), directory("usr/bin"), (member("usr/bin/su", mode=0o4755), BIG),
    link("bin", "usr/bin"), link("dangling", "nowhere"),
    (member("empty"), b""), (member("n\udcff\udcfe"), b"not utf-8"), (member("long/" + "n" * 120 + "/" + "m" * 120), b"long"),
    (member("fifo", type=tarfile.FIFOTYPE), b""), directory("closed", mode=0o500), (member("closed/file"), b"closed"),
]  # fmt: skip
UPPER = [
    (member("etc/.wh.gone"), b""), (member("dir/.wh.hidden"), b""),
    (member("opaque/.wh..wh..opq"), b""), (member("opaque/new"), b"new"),
    (member(".wh.one"), b""), (member("bin/through"), b"through a symlink"), (member("etc/passwd", mode=0o600, uid=9), b"other"),
    link("four", "two", hard=True), directory("etc", mode=0o700, uid=5, mtime=5),
]  # fmt: skip


@pytest.fixture
def outputs(make: Any, content: Any, refuse_fetch: Any) -> Any:
    """Makes outputs, given their place."""

    async def index(layer: Any) -> Any:
        return scan(str(content.path(layer.blob.digest)), str(layer.diff_id)).index

    def of(place: Place | Path) -> Any:
        if isinstance(place, Place):
            return TarOutput(place, content, refuse_fetch, index)
        return LocalOutput(place, content, refuse_fetch, index)

    return of


def listing(root: Path, *, owners: bool, directories: bool = True) -> dict[str, tuple[Any, ...]]:
    """Everything in a directory: kind and mode, owner, what is in it, time; and which names are of one file."""
    found: dict[str, tuple[Any, ...]] = {}
    names: dict[int, list[str]] = {}
    for parent, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(parent, name)
            seen = os.lstat(path)
            what: Any = ""
            if stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    what = hashlib.file_digest(file, "sha256").hexdigest()
                names.setdefault(seen.st_ino, []).append(os.path.relpath(path, root))
            elif stat.S_ISLNK(seen.st_mode):
                what = os.readlink(path)
            is_directory = stat.S_ISDIR(seen.st_mode)
            time = seen.st_mtime_ns if directories or not is_directory else 0
            found[os.path.relpath(path, root)] = (seen.st_mode, (seen.st_uid, seen.st_gid) if owners else None, what, time)
    for group in names.values():
        for name in group:
            found[name] += (sorted(group),)
    return found


def extracted(tar: Path, into: Path) -> Path:
    into.mkdir()
    subprocess.run(["tar", "--numeric-owner", "-xpf", str(tar), "-C", str(into)], check=True)
    return into


def applied(make: Maker, layers: Any, into: Path, *, owners: bool = True) -> Path:
    into.mkdir()
    for layer in layers:
        apply_layer(str(make.content.path(layer.blob.digest)), str(into), owners=owners)
    return into


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="owners need root")
async def test_a_tar_holds_just_what_is_left_of_the_layers(make: Any, outputs: Any, tmp_path: Path) -> None:
    layers = [make.layer(LOWER)[0], make.layer(UPPER)[0]]
    assert await outputs(Place(tmp_path / "out.tar")).write(make.built(layers=layers)) == str(tmp_path / "out.tar")
    found = listing(extracted(tmp_path / "out.tar", tmp_path / "x"), owners=True, directories=False)
    assert found == listing(applied(make, layers, tmp_path / "reference"), owners=True, directories=False)
    assert set(found) >= {"etc/passwd", "opaque/new", "usr/bin/through", "n\udcff\udcfe", "two", "three", "four", "fifo"}
    assert not set(found) & {"one", "etc/gone", "opaque/old", "opaque/below", "dir/hidden"}
    assert found["two"][4] == ["four", "three", "two"] or sorted(found["two"][4]) == ["four", "three", "two"]
    with tarfile.open(tmp_path / "out.tar") as archive:
        names = archive.getnames()
        etc = archive.getmember("etc")
    assert len(names) == len(set(names)) == len(found)
    assert (etc.mode, etc.uid, etc.mtime) == (0o700, 5, 5)


async def test_a_tar_is_the_same_each_time(make: Any, outputs: Any, tmp_path: Path) -> None:
    built = make.built(layers=[make.layer(LOWER)[0], make.layer(UPPER)[0]])
    buffers = []
    for _ in range(2):
        buffers.append(io.BytesIO())
        await outputs(Place(buffers[-1])).write(built)
    assert buffers[0].getvalue() == buffers[1].getvalue()
    assert len(buffers[0].getvalue()) % 10240 == 0


async def test_a_layer_of_which_nothing_is_left_is_not_needed(make: Any, content: Any, outputs: Any, tmp_path: Path) -> None:
    gone, kept = make.layer([(member("file"), b"old")])[0], make.layer([(member("file"), b"new")])[0]
    indexes = {layer: scan(str(content.path(layer.blob.digest))).index for layer in (gone, kept)}
    content.remove(gone.blob.digest)

    async def index(layer: Any) -> Any:
        return indexes[layer]

    async def refuse(layer: Any, origin: Any) -> None:
        raise AssertionError(layer)

    await LocalOutput(tmp_path / "out", content, refuse, index).write(make.built(layers=[gone, kept]))
    assert (tmp_path / "out" / "file").read_bytes() == b"new"


async def test_a_layer_that_is_needed_is_fetched(make: Any, content: Any, tmp_path: Path) -> None:
    layer, blob = make.layer([(member("file"), b"content")], stored=False)

    async def index(wanted: Any) -> Any:
        content.put(blob)
        found = scan(str(content.path(layer.blob.digest))).index
        content.remove(layer.blob.digest)
        return found

    async def fetch(wanted: Any, origin: Any) -> None:
        content.put(blob)

    await LocalOutput(tmp_path / "out", content, fetch, index).write(make.built(layers=[layer]))
    assert (tmp_path / "out" / "file").read_bytes() == b"content"


async def test_a_directory_belongs_to_the_user(make: Any, outputs: Any, tmp_path: Path) -> None:
    layers = [make.layer(LOWER)[0], make.layer(UPPER)[0]]
    await outputs(tmp_path / "deep" / "out").write(make.built(layers=layers))
    found = listing(tmp_path / "deep" / "out", owners=True)
    reference = listing(applied(make, layers, tmp_path / "reference", owners=False), owners=False)
    assert {path: (value[0], None, *value[2:]) for path, value in found.items()}.keys() == reference.keys()
    assert {value[1] for value in found.values()} == {(os.geteuid(), os.getegid())}
    for path, value in found.items():
        assert (value[0], value[2], value[4:]) == (reference[path][0], reference[path][2], reference[path][4:])
    assert found["etc"][3] == 5 * 10**9 and found["closed"][0] == stat.S_IFDIR | 0o500
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "out"]


async def test_what_is_in_a_directory_stays_but_for_the_same_names(make: Any, outputs: Any, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out / "etc", out / "empty", elsewhere):
        folder.mkdir(parents=True)
    for path in (out / "mine", out / "etc" / "mine", out / "etc" / "passwd", out / "empty" / "inside", elsewhere / "theirs"):
        path.write_text("mine")
    (out / "usr").symlink_to(elsewhere)
    (out / "opaque").write_text("a file where a directory comes")
    out.chmod(0o701)
    for _ in range(2):
        await outputs(out).write(make.built(layers=[make.layer(LOWER)[0], make.layer(UPPER)[0]]))
        found = listing(out, owners=False)
        assert (out / "mine").read_text() == (out / "etc" / "mine").read_text() == "mine"
        assert (out / "etc" / "passwd").read_bytes() == b"other"
        assert stat.S_ISREG(found["empty"][0]) and stat.S_ISDIR(found["usr"][0]) and (out / "opaque" / "new").read_bytes() == b"new"
        assert stat.S_IMODE(found["etc"][0]) == 0o700 and stat.S_IMODE(out.stat().st_mode) == 0o701
        assert [p.name for p in elsewhere.iterdir()] == ["theirs"]
        assert {p.name for p in tmp_path.iterdir()} >= {"out", "elsewhere"}
        assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]


async def test_several_platforms_have_a_directory_each(make: Any, outputs: Any, tmp_path: Path) -> None:
    built = make.indexed()
    await outputs(tmp_path / "out").write(built)
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")}
    assert names == {"linux_amd64", "linux_amd64/shared", "linux_amd64/amd64",
                     "linux_arm64", "linux_arm64/shared", "linux_arm64/arm64"}  # fmt: skip
    buffer = io.BytesIO()
    await outputs(Place(buffer)).write(built)
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as archive:
        assert sorted(archive.getnames())[:2] == ["linux_amd64", "linux_amd64/amd64"]


async def test_an_empty_image(make: Any, outputs: Any, tmp_path: Path) -> None:
    built = make.built(layers=[make.layer([(member(".wh.nothing"), b"")])[0]])
    await outputs(tmp_path / "out").write(built)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("tar", [True, False])
async def test_a_damaged_blob_leaves_nothing(make: Any, content: Any, tmp_path: Path, refuse_fetch: Any, tar: bool) -> None:
    layer, blob = make.layer(LOWER)
    index = scan(str(content.path(layer.blob.digest))).index

    async def of(wanted: Any) -> Any:
        return index

    place = tmp_path / "place"
    place.mkdir()
    where = place / "out"
    output = TarOutput(Place(where), content, refuse_fetch, of) if tar else LocalOutput(where, content, refuse_fetch, of)
    content.path(layer.blob.digest).write_bytes(blob[:-100] + bytes(100))
    with pytest.raises(ContentError):
        await output.write(make.built(layers=[layer]))
    assert list(place.iterdir()) == []


async def test_a_blob_with_another_content_of_the_same_names(make: Any, content: Any, tmp_path: Path, refuse_fetch: Any) -> None:
    from msgspec.structs import replace

    real, fake = make.layer([(member("file"), b"real")])[0], make.layer([(member("file"), b"fake")])[0]

    async def of(wanted: Any) -> Any:
        return scan(str(content.path(real.blob.digest))).index

    built = make.built(layers=[replace(real, blob=fake.blob)])
    with pytest.raises(ContentError, match="does not hold"):
        await LocalOutput(tmp_path / "out", content, refuse_fetch, of).write(built)
    assert not (tmp_path / "out").exists()


async def test_a_full_disk(make: Any, outputs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from engine.layer.disk import Disk

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Disk, "seal", full)
    monkeypatch.setattr("engine.output.rootfs.write_all", full)
    place = tmp_path / "place"
    place.mkdir()
    for where in (place / "out", Place(place / "out")):
        with pytest.raises(StorageError, match="No space left"):
            await outputs(where).write(make.built(layers=[make.layer(LOWER)[0]]))
        assert list(place.iterdir()) == []


async def test_a_file_where_the_directory_should_be(make: Any, outputs: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError):
        await outputs(tmp_path / "file").write(make.built())
    assert (tmp_path / "file").read_text() == "mine"


async def test_cancelling_leaves_nothing(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()

    async def index(layer: Any) -> Any:
        return scan(str(content.path(layer.blob.digest))).index

    built = make.built(layers=[make.layer([(member(f"file{n}"), os.urandom(3 << 20)) for n in range(4)])[0]])
    for tar in (True, False):
        scope = anyio.CancelScope()

        def progress(what: str, done: int, total: int, scope: anyio.CancelScope = scope) -> None:
            scope.cancel()

        with scope:
            if tar:
                await TarOutput(Place(place / "out"), content, refuse_fetch, index, progress).write(built)
            else:
                await LocalOutput(place / "out", content, refuse_fetch, index, progress).write(built)
        assert scope.cancelled_caught
        assert list(place.iterdir()) == []


NAMES = st.sampled_from(["a", "b", "a/a", "a/b", "b/a", "a/a/a", "c"])
MEMBERS = st.one_of(
    st.tuples(st.just("file"), NAMES, st.sampled_from(["", "x", "yy"])),
    st.tuples(st.just("dir"), NAMES, st.just("")),
    st.tuples(st.just("symlink"), NAMES, st.sampled_from(["a", "b", "../b", "/a", "nowhere"])),
    st.tuples(st.just("hardlink"), NAMES, NAMES).filter(lambda m: m[1] != m[2]),
    st.tuples(st.just("whiteout"), NAMES, st.just("")),
    st.tuples(st.just("opaque"), NAMES, st.just("")),
)
def makes_sense(members: list[tuple[str, str, str]]) -> bool:
    """Whether no layer has something below what is a file in it or becomes a link later, or empties what it makes a link: every
    reader makes something else of that."""
    links = {name for kind, name, _ in members if kind == "symlink"}
    if links & {name for kind, name, _ in members if kind == "opaque"}:
        return False
    for i, (kind, name, _) in enumerate(members):
        below = [j for j, (_, other, _) in enumerate(members) if other.startswith(name + "/")]
        if below and (kind in ("file", "hardlink") or (kind == "symlink" and min(below) < i)):
            return False
    return True


LAYERS = st.lists(MEMBERS, max_size=6, unique_by=lambda m: (m[0] in ("whiteout", "opaque"), m[1])).filter(makes_sense)


def from_model(kind: str, name: str, text: str) -> tuple[tarfile.TarInfo, bytes]:
    head, slash, tail = name.rpartition("/")
    if kind == "file":
        return member(name), text.encode()
    if kind == "dir":
        return directory(name)
    if kind in ("symlink", "hardlink"):
        return link(name, text, hard=kind == "hardlink")
    return (member(f"{head}{slash}.wh.{tail}") if kind == "whiteout" else member(f"{name}/.wh..wh..opq")), b""


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LAYERS, min_size=1, max_size=4))
def test_flattening_is_the_same_as_applying_layer_after_layer(tmp_path: Path, model: list[list[tuple[str, str, str]]]) -> None:
    base = tmp_path / "case"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    make = Maker(DirectoryStore(base / "state"))
    layers = [make.layer([from_model(*m) for m in members])[0] for members in model]

    async def index(layer: Any) -> Any:
        return scan(str(make.content.path(layer.blob.digest)), str(layer.diff_id)).index

    async def flatten() -> None:
        await LocalOutput(base / "flat", make.content, None, index).write(make.built(layers=layers))  # type: ignore[arg-type]
        await TarOutput(Place(base / "flat.tar"), make.content, None, index).write(make.built(layers=layers))  # type: ignore[arg-type]

    def known(work: Any) -> Any:
        try:
            return work()
        except EngineError as error:
            return error

    reference = known(lambda: applied(make, layers, base / "reference", owners=False))
    ours = known(lambda: anyio.run(flatten))
    if isinstance(reference, EngineError) or isinstance(ours, EngineError):
        # What makes no sense may be refused by one of them only; that is not for outputs to say
        assert isinstance(ours, (Path, ContentError, CopyError, type(None)))
        return
    expected = listing(base / "reference", owners=False, directories=False)
    assert listing(base / "flat", owners=False, directories=False) == expected
    assert listing(extracted(base / "flat.tar", base / "x"), owners=False, directories=False) == expected
