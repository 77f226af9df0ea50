"""ADD, rule by rule (85–94): archives, downloads and repositories."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import shutil
import tarfile
from base64 import b64encode
from collections.abc import Iterator
from threading import Thread

import pytest
import zstandard

from .images import Case, Dir, File, case
from .servers import MODIFIED, Web, make_repository, serve

pytestmark = pytest.mark.system


def tar(*members: tuple[str, object], uid: int = 0, gid: int = 0, mode: int = 0o644) -> bytes:
    """A tar of members: a name and a text, None for a directory, `-> target` for a link, `= name` for a hard link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.uid, info.gid, info.mode, info.mtime = uid, gid, mode, MODIFIED
            data = b""
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif str(content).startswith("-> "):
                info.type, info.linkname = tarfile.SYMTYPE, str(content)[3:]
            elif str(content).startswith("= "):
                info.type, info.linkname = tarfile.LNKTYPE, str(content)[2:]
            else:
                data = str(content).encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


PLAIN = tar(("in/x", "x"))
UNPACKED = {"/in": "d 755 0:0", "/in/x": "- 644 0:0 x"}

ARCHIVES = [
    case("copy-does-not-extract", 85, dockerfile="FROM scratch\nCOPY t.tar /", context={"t.tar": PLAIN},
         files={"/t.tar": f"- 644 0:0 {PLAIN.decode()}" if len(PLAIN) <= 4096 else f"- 644 0:0 {len(PLAIN)} bytes"}),
    *(case(f"add-extracts-{name}", 85, dockerfile=f"FROM scratch\nADD {file} /", context={file: data}, files=UNPACKED)
      for name, file, data in (("tar", "t.tar", PLAIN), ("gzip", "t.tar.gz", gzip.compress(PLAIN)), ("bzip2", "t", bz2.compress(PLAIN)),
                               ("xz", "t.gz", lzma.compress(PLAIN)), ("zstd", "t.zip", zstandard.compress(PLAIN)))),
    case("add-keeps-when-told", 85, dockerfile="FROM scratch\nADD --unpack=false t.tgz /", context={"t.tgz": gzip.compress(PLAIN, mtime=0)},
         files={"/t.tgz": f"- 644 0:0 {len(gzip.compress(PLAIN, mtime=0))} bytes"}),
    case("what-only-looks-like-an-archive", 85, dockerfile="FROM scratch\nADD t.tar.gz /", context={"t.tar.gz": "no tar"},
         files={"/t.tar.gz": "- 644 0:0 no tar"}),
    case("two-archives", 86, dockerfile="FROM scratch\nADD *.tar /dest",
         context={"a.tar": tar(("a", "a")), "b.tar": tar(("b", "b"))},
         files={"/dest": "d 755 0:0", "/dest/a": "- 644 0:0 a", "/dest/b": "- 644 0:0 b"}),
    case("an-existing-root-keeps-its-mode", 87, dockerfile="FROM @busybox\nRUN mkdir -m 700 /dir && chown 5:6 /dir\nADD t.tar /dir",
         context={"t.tar": tar(("./", None), ("./x", "x"), uid=9, gid=9)}, files={"/dir": "d 700 5:6", "/dir/x": "- 644 9:9 x"}),
    case("parents-that-no-member-names", 88, dockerfile="FROM scratch\nADD t.tar /", context={"t.tar": tar(("etc/dnf/", None), uid=9)},
         files={"/etc": "d 755 0:0", "/etc/dnf": "d 755 9:0"}),
    case("through-an-absolute-link-of-the-image", 88, dockerfile="FROM @busybox\nADD t.tar /", context={"t.tar": tar(("var/run/x", "x"))},
         files={"/run/x": "- 644 0:0 x"}),
    case("hard-links-inside", 88, dockerfile="FROM scratch\nADD t.tar /", context={"t.tar": tar(("a", "a"), ("b", "= a"))},
         files={"/a": "- 644 0:0 a", "/b": "- 644 0:0 a = /a"}),
    case("chown", 89, dockerfile="FROM scratch\nADD --chown=100:200 t.tar /out/", context={"t.tar": tar(("d/", None), ("d/x", "x"), uid=7)},
         files={"/out": "d 755 100:200", "/out/d": "d 755 100:200", "/out/d/x": "- 644 100:200 x"}),
    case("climbing-out", 88, dockerfile="FROM scratch\nADD t.tar /in/", context={"t.tar": tar(("../x", "x"))}, error=r"\.\./x"),
    case("other-files-are-copied", 85, dockerfile="FROM scratch\nADD f d /x/", context={"f": File("f", 0o600), "d": Dir(), "d/e": "e"},
         files={"/x": "d 755 0:0", "/x/f": "- 600 0:0 f", "/x/e": "- 644 0:0 e"}),
]  # fmt: skip


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(shop, case: Case) -> None:
    shop.check(case)


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Web]:
    web = Web({"/foo": b"foo", "/": b"index", "/a/b": b"b", "/t.tar.gz": gzip.compress(PLAIN)}, dated={"/foo"})
    if shutil.which("git"):
        web.folders["/r.git"] = make_repository(tmp_path_factory.mktemp("git"))
    server = serve(web)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield web
    server.shutdown()
    thread.join()
    server.server_close()


FOO = hashlib.sha256(b"foo").hexdigest()
DOWNLOADS = [
    case("into-a-directory", 90, dockerfile="FROM scratch\nADD WEB/foo /d/", times=("/d/foo",),
         files={"/d": "d 755 0:0", "/d/foo": f"- 600 0:0 foo @{MODIFIED}"}),
    case("without-a-date", 90, dockerfile="FROM scratch\nADD WEB/a/b /d/", files={"/d": "d 755 0:0", "/d/b": "- 600 0:0 b"}),
    case("without-a-name", 90, dockerfile="FROM scratch\nADD WEB/ /d/", files={"/d": "d 755 0:0", "/d/__unnamed__": "- 600 0:0 index"}),
    case("a-query-is-no-name", 90, dockerfile="FROM scratch\nADD WEB/foo?a=b&c=/d /d/",
         files={"/d": "d 755 0:0", "/d/foo": "- 600 0:0 foo"}),
    case("owner-and-mode", 90, dockerfile="FROM scratch\nADD --chown=1:2 --chmod=755 WEB/foo /x", files={"/x": "- 755 1:2 foo"}),
    case("variables-in-urls", 90, dockerfile="FROM scratch\nARG n=foo\nADD WEB/$n /x", files={"/x": "- 600 0:0 foo"}),
    case("archives-stay", 91, dockerfile="FROM scratch\nADD WEB/t.tar.gz /x",
         files={"/x": f"- 600 0:0 {len(gzip.compress(PLAIN))} bytes"}),
    case("archives-are-unpacked-when-told", 91, dockerfile="FROM scratch\nADD --unpack=true WEB/t.tar.gz /x",
         files={"/x": "d 755 0:0", "/x/in": "d 755 0:0", "/x/in/x": "- 644 0:0 x"}),
    case("not-found", 91, dockerfile="FROM scratch\nADD WEB/nosuch /x", error="404"),
    case("checksum", 92, dockerfile=f"FROM scratch\nADD --checksum=sha256:{FOO} WEB/foo /x", files={"/x": "- 600 0:0 foo"}),
    case("checksum-that-does-not-match", 92, dockerfile=f"FROM scratch\nADD --checksum=sha256:{'0' * 64} WEB/foo /x",
         error="digest mismatch"),
    case("checksum-of-another-algorithm", 92, dockerfile="FROM scratch\nADD --checksum=md5:7e55db001d319a94b0b713529a756623 WEB/foo /x",
         error="unsupported digest algorithm"),
    case("checksum-without-algorithm", 92, dockerfile=f"FROM scratch\nADD --checksum={FOO} WEB/foo /x", error="invalid checksum digest format"),
    case("checksum-of-a-local-file", 92, dockerfile=f"FROM scratch\nADD --checksum=sha256:{FOO} foo /x", context={"foo": "foo"},
         error=r"checksum requires HTTP\(S\) or Git sources"),
    case("checksum-of-two-sources", 92, dockerfile=f"FROM scratch\nADD --checksum=sha256:{FOO} WEB/foo WEB/foo /x/",
         error="checksum can't be specified for multiple sources|checksum.*sources"),
    case("copy-of-a-url", 93, dockerfile="FROM scratch\nCOPY WEB/foo /x", error="source can't be a URL for COPY"),
    case("copy-of-a-repository", 93, dockerfile="FROM scratch\nCOPY git@h:r.git /x", error="source can't be a git ref for COPY"),
]  # fmt: skip


@pytest.mark.parametrize("case", DOWNLOADS)
def test_downloads(shop, web: Web, case: Case) -> None:
    shop.check(Case(case.dockerfile.replace("WEB", web.url), case.context, case.files, case.error, case.options))


@pytest.mark.rule(90)
def test_a_known_download_is_asked_for_by_its_etag(shop, web: Web) -> None:
    web.files["/tagged"], web.etags["/tagged"] = b"tagged", '"one"'
    dockerfile = f"FROM scratch\nADD {web.url}/tagged /x"
    shop.build(dockerfile)
    web.asked.clear()
    assert shop.build(dockerfile).result.ran == 0
    assert web.asked == [("HEAD", "/tagged", '"one"')]
    web.files["/tagged"], web.etags["/tagged"] = b"other", '"two"'
    assert shop.build(dockerfile).files == {"/x": "- 600 0:0 other"}


SUB = {"/d": "d 755 0:0", "/d/g": "- 644 0:0 g", "/d/run.sh": "- 755 0:0 #!/bin/sh\n"}
REPOSITORIES = [
    case("subdirectory-of-a-tag", 94, dockerfile="FROM scratch\nADD WEB/r.git#v1:sub /d", files=SUB),
    case("as-a-query", 94, dockerfile="FROM scratch\nADD WEB/r.git?ref=v1&subdir=sub /d", files=SUB),
    case("whole", 94, dockerfile="FROM scratch\nADD WEB/r.git /d",
         files={"/d": "d 755 0:0", "/d/f": "- 644 0:0 two", "/d/sub": "d 755 0:0", **{f"/d/sub{k[2:]}": v for k, v in SUB.items() if k != "/d"}}),
    case("a-missing-ref", 94, dockerfile="FROM scratch\nADD WEB/r.git#nosuch /d", error="nosuch"),
    case("contradiction", 94, dockerfile="FROM scratch\nADD --keep-git-dir=false WEB/r.git?keep-git-dir=true /d",
         error="inconsistent keep-git-dir configuration"),
]  # fmt: skip
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@needs_git
@pytest.mark.parametrize("case", REPOSITORIES)
def test_repositories(shop, web: Web, case: Case) -> None:
    shop.check(Case(case.dockerfile.replace("WEB", web.url), case.context, case.files, case.error, case.options))


@needs_git
@pytest.mark.rule(94)
def test_the_git_directory_is_kept_when_told(shop, web: Web) -> None:
    files = shop.build(f"FROM scratch\nADD --keep-git-dir=true {web.url}/r.git#v1 /d").files
    assert files["/d/.git"].startswith("d ")
    assert "/d/.git/HEAD" in files
    assert files["/d/f"] == "- 644 0:0 one"


@needs_git
@pytest.mark.rule(92)
def test_the_checksum_of_a_repository_is_its_commit(shop, web: Web) -> None:
    commit = (web.folders["/r.git"] / "packed-refs").read_text().partition(" refs/heads/main")[0].splitlines()[-1]
    files = {"/d": "d 755 0:0", "/d/g": "- 644 0:0 g", "/d/run.sh": "- 755 0:0 #!/bin/sh\n"}
    for flag, query in ((f"--checksum={commit} ", ""), (f"--checksum={commit[:9]} ", ""), ("", f"&checksum={commit}"), ("", f"&commit={commit}")):
        assert shop.build(f"FROM scratch\nADD {flag}{web.url}/r.git?branch=main&subdir=sub{query} /d").files == files
    error = shop.fails(f"FROM scratch\nADD --checksum={'0' * 40} {web.url}/r.git#main /d")
    assert f"expected checksum to match {'0' * 40}, got {commit}" in error.message


@needs_git
@pytest.mark.rule(94)
@pytest.mark.parametrize("suffix", ["", ".HOST"])
def test_a_private_repository_with_a_login_that_enters_nothing(shop, web: Web, suffix: str) -> None:
    tokens = ["first-token", "second-token"]
    web.private["/r.git"] = tuple(f"Basic {b64encode(f'x-access-token:{token}'.encode()).decode()}" for token in tokens)
    id = "GIT_AUTH_TOKEN" + suffix.replace("HOST", web.url.removeprefix("http://"))
    try:
        dockerfile = f"FROM scratch\nADD --keep-git-dir=true {web.url}/r.git?branch=main /d{suffix}/\n"
        assert "GIT_AUTH_TOKEN" in (shop.fails(dockerfile).hint or "")
        first, second = (shop.build(dockerfile, secrets={id: token}) for token in tokens)
    finally:
        web.private.clear()
    assert first.files[f"/d{suffix}/sub/g"] == "- 644 0:0 g"
    assert f"/d{suffix}/.git/config" in first.files
    assert second.result.ran == 0
    assert first.result.digest == second.result.digest
    assert not [token for token in tokens if token in f"{first.raw} {first.events}" or token.encode() in b"".join(first.tars)]
