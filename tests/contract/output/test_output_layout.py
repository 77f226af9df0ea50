"""OCI layouts and docker archives: what is in them, and that other people's tools read them."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import anyio
import pytest

from engine.errors import ContentError, StorageError, UsageError
from engine.image.reference import Reference
from engine.output.docker import DockerOutput
from engine.output.oci import OciOutput
from engine.output.place import Place

KINDS = [OciOutput, DockerOutput]
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def tool(*words: str) -> str:
    if not shutil.which(words[0]):
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_layout(directory: Path, blobs: set[str]) -> dict[str, Any]:
    """Checks what the image spec's schemas say of a layout and all it points to; returns its index."""
    assert json.loads((directory / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((directory / "index.json").read_bytes())
    assert index["schemaVersion"] == 2 and index["mediaType"] == INDEX
    todo, seen = list(index["manifests"]), set()

    def read(descriptor: dict[str, Any]) -> bytes:
        assert set(descriptor) <= {"mediaType", "digest", "size", "annotations", "platform", "artifactType"}
        algorithm, _, name = descriptor["digest"].partition(":")
        data = (directory / "blobs" / algorithm / name).read_bytes()
        assert len(data) == descriptor["size"]
        seen.add(name)
        return data

    while todo:
        descriptor = todo.pop()
        value = json.loads(read(descriptor))
        assert value["schemaVersion"] == 2 and value.setdefault("mediaType", descriptor["mediaType"]) == descriptor["mediaType"]
        if value["mediaType"] == INDEX:
            assert all(m["platform"]["os"] and m["platform"]["architecture"] for m in value["manifests"])
            todo += value["manifests"]
            continue
        assert value["mediaType"] == MANIFEST
        config = json.loads(read(value["config"]))
        assert config["rootfs"]["type"] == "layers" and len(config["rootfs"]["diff_ids"]) == len(value["layers"])
        assert config["architecture"] and config["os"]
        for layer in value["layers"]:
            assert layer["mediaType"].startswith("application/vnd.oci.image.layer.v1.tar")
            read(layer)
    assert seen == blobs
    return dict(index)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_directory_is_a_layout_that_skopeo_and_umoci_read(
    kind: Any, make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any
) -> None:
    built = make.built("127.0.0.1:5000/app:v1")
    out = tmp_path / "deep" / "out"
    assert await kind(Place(out, archive=False), content, refuse_fetch).write(built) == str(out)
    index = check_layout(out, blobs_in(out))
    assert [e["annotations"]["org.opencontainers.image.ref.name"] for e in index["manifests"]] == ["v1"]
    inspected = json.loads(tool("skopeo", "inspect", f"oci:{out}:v1"))
    assert inspected["Digest"] == str(built.top.digest)
    bundle = tmp_path / "bundle"
    tool("umoci", "unpack", *([] if os.geteuid() == 0 else ["--rootless"]), "--image", f"{out}:v1", str(bundle))
    assert {p.name for p in (bundle / "rootfs").iterdir()} == {"file", "other"}


@pytest.mark.parametrize("kind", KINDS)
async def test_an_archive_is_the_same_as_the_directory(
    kind: Any, make: Any, content: Any, refuse_fetch: Any, tmp_path: Path
) -> None:
    built = make.built("app:v1")
    await kind(Place(tmp_path / "dir", archive=False), content, refuse_fetch).write(built)
    await kind(Place(tmp_path / "out.tar"), content, refuse_fetch).write(built)
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert archive.getnames() == sorted(archive.getnames())
        for info in archive:
            assert (info.mtime, info.uid, info.gid, info.uname) == (0, 0, 0, "")
        files = {i.name: archive.extractfile(i).read() for i in archive if i.isreg()}  # type: ignore[union-attr]
        assert {i.name for i in archive if i.isdir()} == {"blobs", "blobs/sha256"}
    assert files == {str(p.relative_to(tmp_path / "dir")): p.read_bytes() for p in (tmp_path / "dir").rglob("*") if p.is_file()}
    tool("tar", "-tf", str(tmp_path / "out.tar"))


async def test_skopeo_reads_an_oci_archive(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    built = make.built("app:v1")
    await OciOutput(Place(tmp_path / "out.tar"), content, refuse_fetch).write(built)
    assert json.loads(tool("skopeo", "inspect", f"oci-archive:{tmp_path}/out.tar:v1"))["Digest"] == str(built.top.digest)


async def test_skopeo_reads_a_docker_archive_by_name(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    built = make.built("docker.io/library/app:v1", "127.0.0.1:5000/other/app:v2")
    await DockerOutput(Place(tmp_path / "out.tar"), content, refuse_fetch).write(built)
    for name in ("app:v1", "127.0.0.1:5000/other/app:v2"):
        inspected = json.loads(tool("skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/out.tar:{name}"))
        assert inspected["rootfs"]["diff_ids"] == [str(x.diff_id) for x in built.images[0].layers]
    tool("skopeo", "copy", f"docker-archive:{tmp_path}/out.tar:app:v1", f"oci:{tmp_path}/back:x")
    with tarfile.open(tmp_path / "out.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        repositories = json.load(archive.extractfile("repositories"))  # type: ignore[arg-type]
    layers = built.images[0].manifest.layers
    assert manifest == [{"Config": f"blobs/sha256/{built.images[0].manifest.config.digest.hex}",
                         "RepoTags": ["app:v1", "127.0.0.1:5000/other/app:v2"],
                         "Layers": [f"blobs/sha256/{x.digest.hex}" for x in layers]}]  # fmt: skip
    assert repositories == {"app": {"v1": layers[-1].digest.hex}, "127.0.0.1:5000/other/app": {"v2": layers[-1].digest.hex}}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_image_gives_the_same_bytes(kind: Any, make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    built = make.built("app:v1")
    for name in ("one", "two"):
        await kind(Place(tmp_path / name), content, refuse_fetch).write(built)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


async def test_several_platforms_are_an_index(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any) -> None:
    built = make.indexed("app:v1", "app:v2")
    await OciOutput(Place(tmp_path / "out", archive=False), content, refuse_fetch).write(built)
    index = check_layout(tmp_path / "out", blobs_in(tmp_path / "out"))
    assert [e["mediaType"] for e in index["manifests"]] == [INDEX, INDEX]
    assert len(blobs_in(tmp_path / "out")) == 3 + 2 + 2 + 1
    inspected = tool("skopeo", "inspect", "--override-arch", "arm64", f"oci:{tmp_path}/out:v2")
    assert json.loads(inspected)["Architecture"] == "arm64"
    with pytest.raises(UsageError, match="manifest lists"):
        await DockerOutput(Place(tmp_path / "docker"), content, refuse_fetch).write(built)


async def test_an_image_without_a_name(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any) -> None:
    for _ in range(2):
        await DockerOutput(Place(tmp_path / "out", archive=False), content, refuse_fetch).write(make.built())
    (entry,) = check_layout(tmp_path / "out", blobs_in(tmp_path / "out"))["manifests"]
    assert "annotations" not in entry and entry["platform"] == {"architecture": "amd64", "os": "linux"}
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())[0]["RepoTags"] == []
    assert json.loads(tool("skopeo", "inspect", f"oci:{tmp_path}/out"))["Layers"]


async def test_an_image_is_added_to_a_layout_and_takes_its_name(
    make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any
) -> None:
    out = tmp_path / "out"
    tool("umoci", "init", "--layout", str(out))
    tool("umoci", "new", "--image", f"{out}:theirs")
    output = DockerOutput(Place(out, archive=False), content, refuse_fetch)
    first = make.built("app:v1", "app:v2")
    second = make.built("app:v2", layers=[make.file_layer("second", 9)[0]])
    await output.write(first)
    await output.write(second)
    index = check_layout(out, blobs_in(out))
    named = {e["annotations"]["org.opencontainers.image.ref.name"]: e["digest"] for e in index["manifests"]}
    assert len(index["manifests"]) == 3
    assert (named["v1"], named["v2"]) == (str(first.top.digest), str(second.top.digest))
    assert "theirs" in named
    docker = json.loads((out / "manifest.json").read_bytes())
    assert [e["RepoTags"] for e in docker] == [["app:v1"], ["app:v2"]]
    tool("umoci", "stat", "--image", f"{out}:theirs")
    assert {p.name for p in out.iterdir()} == {"blobs", "index.json", "oci-layout", "manifest.json", "repositories"}


async def test_blobs_that_are_there_are_not_written_again(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    output = OciOutput(Place(tmp_path / "out", archive=False), content, refuse_fetch)
    await output.write(make.built("app:v1"))
    before = {path: path.stat().st_ino for path in (tmp_path / "out" / "blobs").rglob("*")}
    await output.write(make.built("app:v2"))
    assert {path: path.stat().st_ino for path in (tmp_path / "out" / "blobs").rglob("*")} == before


async def test_many_builds_write_to_one_layout_at_once(
    make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any
) -> None:
    out = tmp_path / "out"
    await OciOutput(Place(out, archive=False), content, refuse_fetch).write(make.built("app:first"))
    builds = [make.built(f"app:v{n}", layers=[make.file_layer("file", n % 3, 200_000)[0]]) for n in range(8)]
    async with anyio.create_task_group() as group:
        for built in builds:
            group.start_soon(OciOutput(Place(out, archive=False), content, refuse_fetch).write, built)
    assert len(check_layout(out, blobs_in(out))["manifests"]) == 9


async def test_standard_output_gets_the_archive_though_it_cannot_seek(
    make: Any, content: Any, refuse_fetch: Any, tmp_path: Path
) -> None:
    built = make.built("app:v1")
    await OciOutput(Place(tmp_path / "file"), content, refuse_fetch).write(built)
    reader, writer = os.pipe()
    got: list[bytes] = []

    async def read() -> None:
        async with await anyio.open_file(reader, "rb") as file:
            got.append(await file.read())

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        with os.fdopen(writer, "wb", buffering=0) as stdout:
            assert await OciOutput(Place(stdout), content, refuse_fetch).write(built) == "standard output"
    assert got == [(tmp_path / "file").read_bytes()]


async def test_a_reader_that_goes_away(make: Any, content: Any, refuse_fetch: Any) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb", buffering=0) as stdout, pytest.raises(StorageError, match="standard output"):
        await OciOutput(Place(stdout), content, refuse_fetch).write(make.built("app:v1"))


@pytest.mark.parametrize("archive", [True, False])
async def test_a_layer_that_is_not_here_is_fetched(make: Any, content: Any, tmp_path: Path, archive: bool) -> None:
    layer, blob = make.file_layer("base", 5, stored=False)
    origin = Reference.parse("127.0.0.1:1/base:1")
    asked = []

    async def fetch(wanted: Any, source: Any) -> None:
        asked.append((wanted, source))
        content.put(blob)

    await OciOutput(Place(tmp_path / "out", archive), content, fetch).write(make.built("a:1", layers=[layer], origins=[origin]))
    assert asked == [(layer, origin)]


async def test_a_layer_that_nobody_has(make: Any, content: Any, tmp_path: Path) -> None:
    async def fetch(layer: Any, origin: Any) -> None:
        pass

    built = make.built("a:1", layers=[make.file_layer("base", 5, stored=False)[0]])
    with pytest.raises(ContentError, match="not in the state directory"):
        await OciOutput(Place(tmp_path / "out"), content, fetch).write(built)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_failure_leaves_nothing(
    kind: Any, archive: bool, make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from engine.output import archive as archives

    def full(source: Path, size: int, write: Any) -> None:
        write(memoryview(b"some"))
        raise OSError(errno.ENOSPC, "No space left on device")

    place = tmp_path / "place"
    place.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(archives, "copy", full)
        patch.setattr("engine.output.files.copy", full)
        with pytest.raises(StorageError, match="No space left") as caught:
            await kind(Place(place / "out", archive), content, refuse_fetch).write(make.built("app:v1"))
    assert "free some space" in (caught.value.hint or "")
    assert list(place.iterdir()) == []


async def test_a_failure_leaves_a_layout_as_it_was(
    make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, blobs_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    output = OciOutput(Place(out, archive=False), content, refuse_fetch)
    await output.write(make.built("app:v1"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    layer, blob = make.file_layer("bad", 7, 3_000_000)

    def cut_off(source: Path, size: int, write: Any) -> None:
        write(memoryview(blob[:1_000_000]))
        raise ContentError("was cut off")

    monkeypatch.setattr("engine.output.files.copy", cut_off)
    with pytest.raises(ContentError, match="was cut off"):
        await output.write(make.built("app:v1", layers=[layer]))
    after = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert layer.blob.digest.hex not in blobs_in(out)


async def test_a_blob_of_another_size_is_an_error(make: Any, content: Any, tmp_path: Path) -> None:
    layer, blob = make.file_layer("bad", 7)
    content.path(layer.blob.digest).write_bytes(blob + b"x")

    async def fetch(wanted: Any, origin: Any) -> None:
        assert wanted == layer

    with pytest.raises(ContentError, match="damaged"):
        await OciOutput(Place(tmp_path / "out"), content, fetch).write(make.built("app:v1", layers=[layer]))


@pytest.mark.parametrize("archive", [True, False])
async def test_a_cancelled_output_leaves_nothing(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, archive: bool) -> None:
    place = tmp_path / "place"
    place.mkdir()
    scope = anyio.CancelScope()

    def progress(what: str, done: int, total: int) -> None:
        assert what == str(place / "out") and 0 < done <= total
        scope.cancel()

    big = make.built("app:v1", layers=[make.file_layer("big", 1, 12 << 20)[0]])
    with scope:
        await OciOutput(Place(place / "out", archive), content, refuse_fetch, progress).write(big)
    assert scope.cancelled_caught
    assert list(place.iterdir()) == []


async def test_places_that_cannot_be_written(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    for place, told in ((Place(full, archive=False), "no OCI layout"), (Place(full), "is a directory"),
                        (Place(file, archive=False), "Not a directory"), (Place(file / "x"), "Not a directory")):  # fmt: skip
        with pytest.raises(StorageError, match=told) as caught:
            await OciOutput(place, content, refuse_fetch).write(make.built("app:v1"))
        assert caught.value.hint
    assert (full / "mine").read_text() == file.read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", '{"manifests": 1}', '{"manifests": [1]}'])
async def test_a_broken_layout_is_not_written_to(make: Any, content: Any, refuse_fetch: Any, tmp_path: Path, text: str) -> None:
    out = tmp_path / "out"
    output = OciOutput(Place(out, archive=False), content, refuse_fetch)
    await output.write(make.built("app:v1"))
    (out / "index.json").write_text(text)
    with pytest.raises(ContentError):
        await output.write(make.built("app:v2"))
    assert (out / "index.json").read_text() == text


async def test_an_archive_replaces_a_file_and_writes_into_a_pipe(
    make: Any, content: Any, refuse_fetch: Any, tmp_path: Path
) -> None:
    built = make.built("app:v1")
    plain, fifo = tmp_path / "plain", tmp_path / "fifo"
    plain.write_text("old")
    await OciOutput(Place(plain), content, refuse_fetch).write(built)
    os.mkfifo(fifo)
    got: list[bytes] = []

    async def read() -> None:
        async with await anyio.open_file(fifo, "rb") as file:
            got.append(await file.read())

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await OciOutput(Place(fifo), content, refuse_fetch).write(built)
    assert got == [plain.read_bytes()]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    tarfile.open(fileobj=io.BytesIO(got[0])).close()
