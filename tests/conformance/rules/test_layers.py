"""Layers and outputs, rule by rule (111–124), and which stages are built."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from engine import Engine, Settings
from engine.errors import DockerfileError, RunError
from engine.image.reference import Reference
from engine.request import OutputRequest

from .images import Case, File, Link, case

pytestmark = pytest.mark.system

EPOCH = 1_500_000_000
DATE = "2017-07-14T02:40:00Z"


def members(layer: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return archive.getmembers()


CHANGES = [
    case("file-removed", 111, dockerfile="FROM @busybox\nRUN rm /etc/motd", files={"/etc/motd": "gone"}),
    case("directory-recreated", 111, dockerfile="FROM @busybox\nRUN rm -r /data && mkdir /data && touch /data/new",
         files={"/data/new": "- 644 0:0", **{f"/data/{n}": "gone" for n in (
             "a", "b", "cap", "deep", "h1", "h2", "link", "ro", "sub", "suid", "xattr")}}),
    case("opaque-directory-of-the-base", 111, dockerfile="FROM @layered\nRUN ls /data > /x && test ! -e /etc/motd",
         files={"/x": "- 644 0:0 new\nsub\n"}),
    case("made-and-removed", 112, dockerfile="FROM @busybox\nRUN touch /data/x && rm /data/x", files={}),
    case("removed-files-are-not-copied", 112,
         dockerfile="FROM @busybox AS s\nRUN rm /data/sub/c\nRUN rm -r /data/deep\nFROM scratch\nCOPY --from=s /data/sub /d\n"
                    "COPY --from=s /data/dee* /e/", files={"/d": "d 755 0:0", "/d/d": "- 644 0:0 d\n"}),
    case("directory-becomes-a-file", 113, dockerfile="FROM @busybox\nRUN mkdir -p /t/a/b\nRUN rm -r /t/a && echo f > /t/a",
         files={"/t": "d 755 0:0", "/t/a": "- 644 0:0 f\n"}),
    case("directory-becomes-a-link", 113, dockerfile="FROM @busybox\nRUN mkdir -p /t/a/b\nRUN rm -r /t/a && ln -s /etc /t/a",
         files={"/t": "d 755 0:0", "/t/a": "l 0:0 -> /etc"}),
    case("file-becomes-a-directory", 113, dockerfile="FROM @busybox\nRUN mkdir /t && touch /t/a\nRUN rm /t/a && mkdir /t/a && touch /t/a/x",
         files={"/t": "d 755 0:0", "/t/a": "d 755 0:0", "/t/a/x": "- 644 0:0"}),
    case("link-becomes-a-directory", 113, dockerfile="FROM @busybox\nRUN mkdir /t && ln -s /etc /t/a\nRUN rm /t/a && mkdir /t/a && touch /t/a/x",
         files={"/t": "d 755 0:0", "/t/a": "d 755 0:0", "/t/a/x": "- 644 0:0"}),
    case("hard-links", 114, dockerfile="FROM @busybox\nRUN mkdir /t && echo h > /t/b && ln /t/b /t/a",
         files={"/t": "d 755 0:0", "/t/a": "- 644 0:0 h\n", "/t/b": "- 644 0:0 h\n = /t/a"}),
    case("hard-link-to-a-file-of-the-base", 114, dockerfile="FROM @busybox\nRUN ln /etc/motd /motd", files={"/motd": "- 644 0:0 welcome\n"}),
    case("mode-only", 115, dockerfile="FROM @busybox\nRUN chmod 600 /etc/motd", files={"/etc/motd": "- 600 0:0 welcome\n"}),
    case("owner-only", 115, dockerfile="FROM @busybox\nRUN chown 5:6 /data/suid", files={"/data/suid": "- 755 5:6 s\n"}),
    case("network-files-stay-behind", 116, dockerfile="FROM @bare\nRUN [\"/bin/busybox\", \"touch\", \"/x\"]", base="bare",
         files={"/x": "- 644 0:0", "/dev": "d 755 0:0", "/proc": "d 755 0:0", "/sys": "d 755 0:0"}),
    case("network-files-of-the-base", 116, dockerfile="FROM @netfiles\nRUN cat /etc/hosts > /dev/null; touch /x", files={"/x": "- 644 0:0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_changes(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(111, 112)
def test_how_removal_is_written(shop) -> None:
    built = shop.build("FROM @busybox\nRUN rm /etc/motd\nRUN touch /t && rm /t")
    assert built.layers == [["/etc/.wh.motd"], []]


@pytest.mark.rule(114)
def test_how_hard_links_are_written(shop) -> None:
    built = shop.build("FROM @busybox\nRUN mkdir /t && echo h > /t/b && ln /t/b /t/a")
    files = {m.name: (m.islnk(), m.linkname) for m in members(built.tars[0]) if not m.isdir()}
    assert files == {"t/a": (False, ""), "t/b": (True, "t/a")}


@pytest.mark.rule(115)
def test_capabilities_are_kept(shop) -> None:
    built = shop.build("FROM @busybox\nRUN cp /data/cap /x && chown 3 /data/cap")
    assert built.files == {"/x": "- 755 0:0 cap\n", "/data/cap": "- 755 3:0 cap\n"}
    assert shop.build("FROM @busybox\nRUN chmod 700 /data/cap").files == {"/data/cap": "- 700 0:0 cap\n cap"}


@pytest.mark.rule(117)
def test_the_manifest_has_nothing_that_was_not_asked_for(shop) -> None:
    built = shop.build("FROM @rich\nRUN true")
    assert "annotations" not in built.manifest
    assert built.raw["created"] > "2025"
    assert built.config["Labels"] == {"a": "base", "keep": "base"}
    assert "FOO=base" in built.config["Env"]


EPOCHAL = "FROM @busybox\nRUN touch /run.txt\nCOPY f /f\nCOPY <<EOF /heredoc\nEOF\nWORKDIR /w\nENV a=b"


@pytest.mark.rule(118)
def test_an_epoch_is_when_all_was_made(shop) -> None:
    built = shop.build(EPOCHAL, {"f": File("f", mtime=EPOCH + 5)}, times=("/w", "/f", "/run.txt"), args={"SOURCE_DATE_EPOCH": str(EPOCH)})
    assert built.raw["created"] == DATE
    assert {h["created"] for h in built.raw["history"][1:]} == {DATE}
    assert built.raw["history"][0]["created"] == "2020-01-01T00:00:00Z"
    assert built.files["/w"] == f"d 755 0:0 @{EPOCH}"
    assert built.files["/f"] == f"- 644 0:0 f @{EPOCH + 5}"
    assert not built.files["/run.txt"].endswith(f"@{EPOCH}")


@pytest.mark.rule(118)
def test_times_of_files_are_rewritten_when_told(shop) -> None:
    context = {"f": File("f", mtime=EPOCH + 5), "old": File("old", mtime=EPOCH - 5)}
    built = shop.build(EPOCHAL + "\nCOPY old /old", context, times=("/f", "/old", "/run.txt"), args={"SOURCE_DATE_EPOCH": str(EPOCH)},
                       rewrite_timestamp=True)
    assert built.files["/f"] == f"- 644 0:0 f @{EPOCH}"
    assert built.files["/run.txt"] == f"- 644 0:0 @{EPOCH}"
    assert built.files["/old"] == f"- 644 0:0 old @{EPOCH - 5}"
    assert max(m.mtime for layer in built.tars for m in members(layer)) <= EPOCH


@pytest.mark.rule(118)
@pytest.mark.parametrize("snapshots", ["overlay", "walk"])
def test_rewritten_times_are_no_change_for_the_next_step(shop, tmp_path: Path, snapshots: str) -> None:
    folder = shop.context({}, "FROM @busybox\nRUN mkdir /d && touch /d/a\nRUN touch /d/b && cat /d/a\nRUN stat -c %Y /d/a > /when\n")
    request = shop.request(folder, args={"SOURCE_DATE_EPOCH": str(EPOCH)}, rewrite_timestamp=True, no_cache=True,
                           outputs=(OutputRequest("oci", tmp_path / "out", archive=False),))

    async def build() -> None:
        async with Engine(Settings(tmp_path / "state", snapshots=snapshots)) as engine:
            await engine.build(request)

    shop.portal.call(build)
    built = shop.read(tmp_path / "out")
    assert built.layers == [["/d/a"], ["/d/b"], ["/when"]]
    assert built.files["/when"] == f"- 644 0:0 {EPOCH}\n"


@pytest.mark.rule(119)
def test_another_checkout_gives_the_same_image(shop) -> None:
    def digest(mtime: int) -> str:
        context = {"f": File("f", mtime=mtime), "d/x": File("x", mtime=mtime)}
        dockerfile = "FROM @busybox\nCOPY . /all\nRUN date > /dev/null; touch /x; mkdir /d\nWORKDIR /w/x"
        return str(shop.build(dockerfile, context, args={"SOURCE_DATE_EPOCH": str(EPOCH)}, rewrite_timestamp=True, no_cache=True).result.digest)

    assert digest(EPOCH + 1) == digest(EPOCH + 100_000)


@pytest.mark.rule(120)
def test_platforms_make_an_index_and_all_outputs_have_its_digest(shop, tmp_path: Path) -> None:
    folder = shop.context({}, "FROM @multi\nARG TARGETARCH\nCOPY <<EOF /arch.txt\n$TARGETARCH\nEOF\n")
    names = [f"{shop.registry.address}/rule120/{n}:1" for n in "ab"]
    outputs = (OutputRequest("registry"), OutputRequest("oci", tmp_path / "layout", archive=False))
    request = shop.request(folder, platform="linux/amd64,linux/arm64", tags=tuple(map(Reference.parse, names)), outputs=outputs)
    result = shop.portal.call(shop.engine.build, request)
    manifests = json.loads(result.manifest)["manifests"]
    assert [m["platform"]["architecture"] for m in manifests] == ["amd64", "arm64"]
    described = json.loads((tmp_path / "layout/index.json").read_bytes())["manifests"]
    assert {m["digest"] for m in described} == {str(result.digest)}
    puts = [e.path for e in shop.registry.requests if e.method == "PUT" and "/rule120/" in e.path and e.path.endswith("/manifests/1")]
    assert sorted(puts) == ["/v2/rule120/a/manifests/1", "/v2/rule120/b/manifests/1"]


STAGES = [
    case("unused-stage-is-not-run", 121, dockerfile="FROM @busybox AS bad\nRUN false\nFROM scratch\nCOPY f /f", context={"f": "f"},
         files={"/f": "- 644 0:0 f"}),
    case("stage-that-is-only-copied-from", 121, dockerfile="FROM @busybox AS s\nRUN echo s > /s\nFROM scratch\nCOPY --from=s /s /",
         files={"/s": "- 644 0:0 s\n"}),
    case("target-before-a-broken-stage", 121, dockerfile="FROM @busybox AS good\nRUN touch /x\nFROM good\nRUN false", target="good",
         files={"/x": "- 644 0:0"}),
    case("target-with-a-typo", 122, dockerfile="FROM scratch AS release\nFROM scratch AS other", target="relaese",
         error='target stage "relaese" could not be found.*did you mean release'),
    case("image-of-a-later-stage", 24, dockerfile="FROM scratch\nCOPY --from=build /x /\nFROM scratch AS build",
         target="0",
         error='cannot copy from stage "build", it needs to be defined before current stage'),
    case("from-a-variable", 25, dockerfile="FROM scratch\nARG x=y\nCOPY --from=$x /x /", error="variable expansion is not supported for --from"),
    *(case(f"from-{name}", 25, dockerfile=f"FROM @busybox AS unused\nFROM @busybox AS Stage\nRUN echo s > /s\nFROM scratch\nCOPY --from={name} /s /",
           files={"/s": "- 644 0:0 s\n"}) for name in ("1", "STAGE", "stage")),
    case("from-an-image", 25, dockerfile="FROM scratch\nCOPY --from=@files /pub/one /", files={"/one": "- 644 0:0 one\n"}),
    case("names-from-platform-arguments", 19, dockerfile="FROM scratch AS build-linux\nCOPY f /f\nFROM build-${TARGETOS}", context={"f": "f"},
         files={"/f": "- 644 0:0 f"}),
    case("names-from-patterns", 9, dockerfile="ARG image=idlebox\nARG REPO\nFROM ${REPO}/busy${image#idle}:1\nRUN true", args={"REPO": "@files"},
         files={}),
]  # fmt: skip


@pytest.mark.parametrize("case", STAGES)
def test_stages(shop, case: Case) -> None:
    if "REPO" in case.options.get("args", {}):
        case = Case(case.dockerfile, case.context, case.files, case.error, {"args": {"REPO": f"{shop.registry.address}/conf"}})
    shop.check(case)


@pytest.mark.rule(123)
def test_warnings_are_errors_when_told_and_nothing_runs(shop) -> None:
    dockerfile = "# check=error=true\nFROM @busybox\nRUN touch /x\nCMD echo\nCMD echo"
    error = shop.fails(dockerfile)
    assert isinstance(error, DockerfileError)
    assert "lint violation found for rules" in error.message
    assert not isinstance(error, RunError)
    assert shop.build(dockerfile.replace("error=true", "skip=all")).warnings == []


@pytest.mark.rule(124)
def test_zstd_is_never_under_docker_media_types(shop, tmp_path: Path) -> None:
    folder = shop.context({"f": "zstd"}, "FROM @docker2\nCOPY f /f")
    request = shop.request(folder, compression="zstd", outputs=(OutputRequest("oci", tmp_path / "z", archive=False),))
    manifest = json.loads(shop.portal.call(shop.engine.build, request).manifest)
    assert manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert [layer["mediaType"].rpartition("+")[2] for layer in manifest["layers"]] == ["gzip", "zstd"]


@pytest.mark.rule(27)
def test_a_dockerfile_is_read_through_links_and_found_in_lower_case(shop) -> None:
    real = shop.context({"real/Any": "FROM scratch\nCOPY f /f", "f": "f", "Dockerfile": Link("real/Any")})
    for folder in (real, shop.context({"dockerfile": "FROM scratch\nCOPY f /f", "f": "f"})):
        out = folder.parent / f"{folder.name}-out"
        request = shop.request(folder, outputs=(OutputRequest("oci", out, archive=False),))
        assert shop.portal.call(shop.engine.build, request).ran <= 1



@pytest.mark.rule(123)
def test_a_check_reads_and_runs_nothing(shop) -> None:
    folder = shop.context({}, "FROM @busybox\nRUN false\nCMD echo")
    events: list[object] = []

    async def check() -> int:
        return await shop.engine.check(shop.request(folder), sink=events.append)

    assert shop.portal.call(check) == 1
    assert [getattr(event, "rule", event) for event in events] == ["JSONArgsRecommended"]
