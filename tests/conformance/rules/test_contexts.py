"""Where files come from: named contexts, and contexts that are no directory (T1, T2). No numbered rule is about them."""

from __future__ import annotations

import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from msgspec.structs import replace

from engine.request import OutputRequest

from .images import Link, write
from .servers import Web, make_repository, serve

pytestmark = pytest.mark.system

CONTEXT = {"Dockerfile": "FROM scratch\nCOPY . /c\n", "f": "f", "d/.dockerignore": "", "d/g": "g"}
COPIED = {"/c": "d 755 0:0", "/c/Dockerfile": "- 644 0:0 FROM scratch\nCOPY . /c\n", "/c/f": "- 644 0:0 f", "/c/d": "d 755 0:0",
          "/c/d/.dockerignore": "- 644 0:0", "/c/d/g": "- 644 0:0 g"}  # fmt: skip


def packed(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, path.relative_to(folder), recursive=False)
    return out.getvalue()


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Web]:
    web = Web()
    if shutil.which("git"):
        web.folders["/r.git"] = make_repository(tmp_path_factory.mktemp("git"))
    server = serve(web)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


def files(shop, request, out: Path, **options) -> dict[str, str]:
    """What a request with a context of its own gives."""
    asked = replace(request, outputs=(OutputRequest("oci", out, archive=False),))

    async def build():
        return await shop.engine.build(asked, **options)

    shop.portal.call(build)
    return shop.read(out).files


@pytest.mark.rule("T2")
@pytest.mark.parametrize("kind", ["directory", "tar", "stdin", "http"])
def test_the_build_context(shop, web: Web, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "context"
    write(folder, CONTEXT)
    request = shop.request(folder)
    options = {}
    if kind == "tar":
        (tmp_path / "c.tar.gz").write_bytes(packed(folder))
        request = replace(request, context=str(tmp_path / "c.tar.gz"))
    elif kind == "stdin":
        request, options = replace(request, context="-"), {"stdin": io.BytesIO(packed(folder))}
    elif kind == "http":
        web.files["/c.tgz"] = packed(folder)
        request = replace(request, context=f"{web.url}/c.tgz")
    assert files(shop, request, tmp_path / "out", **options) == COPIED


@pytest.mark.rule("T2")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_repository_as_the_build_context(shop, web: Web, tmp_path: Path) -> None:
    request = replace(shop.request(tmp_path), context=f"{web.url}/r.git#v1", dockerfile_text="FROM scratch\nCOPY f /f\n")
    assert files(shop, request, tmp_path / "out") == {"/f": "- 644 0:0 one"}


@pytest.mark.rule("T2")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(("query", "path", "text"), [("?tag=v1", "f", "one"), ("?branch=main&submodules=false", "f", "two"),
                                                     ("?ref=v1&subdir=sub", "g", "g")])  # fmt: skip
def test_a_repository_by_a_query_as_the_build_context(shop, web: Web, tmp_path: Path, query: str, path: str, text: str) -> None:
    request = replace(shop.request(tmp_path), context=f"{web.url}/r.git{query}", dockerfile_text=f"FROM scratch\nCOPY {path} /f\n")
    assert files(shop, request, tmp_path / "out") == {"/f": f"- 644 0:0 {text}"}


@pytest.mark.rule("T2")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
@pytest.mark.parametrize(("query", "args", "kept"), [("", {}, False), ("?keep-git-dir=true", {}, True),
                         ("", {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"}, True), ("", {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "0"}, False)])  # fmt: skip
def test_git_s_directory_of_a_build_context(shop, web: Web, tmp_path: Path, query: str, args, kept: bool) -> None:
    request = replace(shop.request(tmp_path, args=args), context=f"{web.url}/r.git{query}", dockerfile_text="FROM scratch\nCOPY . /\n")
    assert ("/.git/HEAD" in files(shop, request, tmp_path / "out")) == kept


@pytest.mark.rule("T2")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_private_repository_as_the_build_context(shop, web: Web, tmp_path: Path) -> None:
    web.private["/r.git"] = ("Bearer let-me-in",)
    request = replace(shop.request(tmp_path, secrets={"GIT_AUTH_HEADER": "Bearer let-me-in"}), context=f"{web.url}/r.git#v1",
                      dockerfile_text="FROM scratch\nCOPY f /f\n")  # fmt: skip
    try:
        assert files(shop, request, tmp_path / "out") == {"/f": "- 644 0:0 one"}
    finally:
        web.private.clear()


@pytest.mark.rule("T2")
def test_a_dockerfile_alone_on_standard_input(shop, tmp_path: Path) -> None:
    alone = io.BytesIO(b"FROM scratch\nCOPY <<E /e\nhi\nE\n")
    got = files(shop, replace(shop.request(tmp_path), context="-"), tmp_path / "out", stdin=alone)
    assert got == {"/e": "- 644 0:0 hi\n"}


NAMED = {"hidden": "", ".dockerignore": "hidden\n.dockerignore\n", "x": "x", "l": Link("x")}


@pytest.mark.rule("T1")
def test_a_directory_as_a_named_context_has_an_ignore_file_of_its_own(shop, tmp_path: Path) -> None:
    write(tmp_path / "named", NAMED)
    built = shop.build("FROM @busybox AS b\nRUN --mount=from=other,target=/o ls /o > /listed\nFROM scratch\nCOPY --from=other / /all/\n"
                       "COPY --from=other l /l\nCOPY --from=b /listed /", contexts={"other": str(tmp_path / "named")})  # fmt: skip
    assert built.files == {"/all": "d 755 0:0", "/all/x": "- 644 0:0 x", "/all/l": "l 0:0 -> x", "/l": "- 644 0:0 x",
                           "/listed": "- 644 0:0 l\nx\n"}  # fmt: skip


@pytest.mark.rule("T1")
def test_a_named_context_takes_the_place_of_an_image_and_of_a_stage(shop, tmp_path: Path) -> None:
    write(tmp_path / "named", NAMED)
    contexts = {"alpine": f"docker-image://{shop.registry.address}/conf/files:1", "stage": str(tmp_path / "named")}
    built = shop.build("FROM scratch AS stage\nCOPY nosuch /\nFROM alpine\nCOPY --from=stage x /x", contexts=contexts)
    assert built.files == {"/x": "- 644 0:0 x"}
    assert built.history[0] == ("layer 0", False)


@pytest.mark.rule("T1")
def test_a_layout_as_a_named_context(shop) -> None:
    layout = f"oci-layout://{shop.folder}/bases/files"
    assert shop.build("FROM scratch\nCOPY --from=base /pub/one /", contexts={"base": layout}).files == {"/one": "- 644 0:0 one\n"}
    assert shop.build("FROM base\nCOPY <<E /e\nE\n", contexts={"base": layout}).files == {"/e": "- 644 0:0"}


@pytest.mark.rule("T1")
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_repository_as_a_named_context(shop, web: Web) -> None:
    built = shop.build("FROM scratch\nCOPY --from=repo g /g", contexts={"repo": f"{web.url}/r.git#v1:sub"})
    assert built.files == {"/g": "- 644 0:0 g"}


@pytest.mark.rule("T1")
def test_a_stage_may_start_from_files(shop, tmp_path: Path) -> None:
    write(tmp_path / "named", {"x": "x", "d/y": "y"})
    built = shop.build("FROM files\nCOPY f /f", {"f": "f"}, contexts={"files": str(tmp_path / "named")})
    assert built.files == {"/f": "- 644 0:0 f", "/x": "- 644 0:0 x", "/d": "d 755 0:0", "/d/y": "- 644 0:0 y"}


STAGES = """FROM @busybox AS tools
ENV from=tools
RUN echo made > /made
FROM x AS one
RUN --mount=from=x,target=/t cat /t/made > /$from
FROM scratch
COPY --from=X made /copied
COPY --from=one /tools /
"""


@pytest.mark.rule("T1")
def test_a_stage_as_a_named_context(shop) -> None:
    contexts = {"x": "target:tools", "X": "target:0"}
    built = shop.build(STAGES, contexts=contexts)
    assert built.files == {"/copied": "- 644 0:0 made\n", "/tools": "- 644 0:0 made\n"}
    copied = "FROM @busybox AS tools\nRUN echo made > /made\nFROM scratch\nCOPY --from=x made /copied\n"
    shop.build(copied, contexts={"x": "target:tools"})
    again = shop.build(copied.replace("echo made", "echo  made"), contexts={"x": "target:tools"}).result
    assert (again.ran, again.cached) == (1, 1), "what is copied counts, and nothing else"


@pytest.mark.rule("T1")
def test_a_stage_below_as_a_named_context(shop) -> None:
    built = shop.build("FROM scratch AS first\nCOPY --from=x f /f\nFROM scratch AS later\nCOPY <<E /f\nlater\nE\nFROM nosuch:1\n",
                       target="first", contexts={"x": "target:later"})  # fmt: skip
    assert built.files == {"/f": "- 644 0:0 later\n"}


@pytest.mark.rule("T1")
@pytest.mark.parametrize(("spec", "message"), [
    ("target:tool", r'target stage "tool" could not be found \(did you mean tools\?\)'), ("target:one", "circular dependency detected on stage"),
])  # fmt: skip
def test_stages_that_cannot_be_a_named_context(shop, spec: str, message: str) -> None:
    assert re.search(message, shop.fails(STAGES, contexts={"x": spec, "X": "target:0"}).message)
