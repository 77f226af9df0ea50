"""COPY, rule by rule (59–84): what is taken, where it goes, and what owner, mode and kind it has there."""

from __future__ import annotations

import pytest

from .images import Case, Dir, File, Link, Special, case

pytestmark = pytest.mark.system

SUB = {"dir/f": "f", "dir/sub/g": "g"}
COPIED = {"/dst": "d 755 0:0", "/dst/f": "- 644 0:0 f", "/dst/sub": "d 755 0:0", "/dst/sub/g": "- 644 0:0 g"}
STAGE = "FROM @busybox AS s\n"

WHERE = [
    *(case(f"directory-gives-its-contents-{n}", 59, dockerfile=f"FROM scratch\nCOPY {source} /dst", context=SUB, files=COPIED)
      for n, source in enumerate(("dir", "dir/", "dir/.", "./dir", "/dir"))),
    case("file-into-slash", 60, dockerfile="FROM scratch\nCOPY f /new/", context={"f": "f"},
         files={"/new": "d 755 0:0", "/new/f": "- 644 0:0 f"}),
    case("file-to-a-name", 60, dockerfile="FROM scratch\nCOPY f /new", context={"f": "f"}, files={"/new": "- 644 0:0 f"}),
    case("file-into-an-existing-directory", 60, dockerfile="FROM @busybox\nCOPY f /data/sub", context={"f": "f"},
         files={"/data/sub/f": "- 644 0:0 f"}),
    case("matched-directories-give-their-contents", 61, dockerfile="FROM scratch\nCOPY sub/* /d/",
         context={"sub/dir1/dir2/foo": "foo", "sub/x": "x"},
         files={"/d": "d 755 0:0", "/d/dir2": "d 755 0:0", "/d/dir2/foo": "- 644 0:0 foo", "/d/x": "- 644 0:0 x"}),
    case("one-match-is-renamed", 62, dockerfile="FROM scratch\nCOPY f*.go foo2.go", context={"foo.go": "x", "g.go": "y"},
         files={"/foo2.go": "- 644 0:0 x"}),
    case("no-match-is-fine", 62, dockerfile="FROM scratch\nCOPY f f\nCOPY nomatch* /d/", context={"f": "f"},
         files={"/f": "- 644 0:0 f"}),
    case("a-missing-name-is-not", 62, dockerfile="FROM scratch\nCOPY missing /d/", context={}, error='"/missing": not found'),
    case("empty-destination", 63, dockerfile='FROM scratch\nENV empty=""\nWORKDIR /w\nCOPY f $empty', context={"f": "f"},
         files={"/w": "d 755 0:0", "/w/f": "- 644 0:0 f"}),
    case("dots-stay-inside", 64, dockerfile="FROM scratch\nCOPY ../../x /y", context={"x": "x"}, files={"/y": "- 644 0:0 x"}),
    case("absolute-is-the-context-root", 64, dockerfile="FROM scratch\nCOPY /x /y", context={"x": "x"},
         files={"/y": "- 644 0:0 x"}),
    case("nothing-above-the-context", 64, dockerfile="FROM scratch\nCOPY ../Dockerfile.nosuch /y", error="not found"),
    case("from-ignores-the-workdir-of-its-stage", 65, context={"Dockerfile.x": "root"},
         dockerfile="FROM scratch AS base\nCOPY Dockerfile.x /f\nCOPY <<EOF /foo/f\nfoo\nEOF\nWORKDIR /foo\n"
                    "FROM scratch\nCOPY --from=base f .", files={"/f": "- 644 0:0 root"}),
]  # fmt: skip


@pytest.mark.parametrize("case", WHERE)
def test_what_is_taken_and_where_it_goes(shop, case: Case) -> None:
    shop.check(case)


OWNERS = [
    case("context-files-become-roots", 66, dockerfile="FROM @busybox\nUSER 1000\nCOPY f /f\nCOPY d /d",
         context={"f": File("f", owner=(1000, 1000)), "d/x": File("x", owner=(7, 8))},
         files={"/f": "- 644 0:0 f", "/d": "d 755 0:0", "/d/x": "- 644 0:0 x"}),
    case("stages-files-keep-theirs", 67, dockerfile=STAGE + "FROM scratch\nCOPY --from=s /data/b /data/suid /data/cap /data/h1 /x/",
         files={"/x": "d 755 0:0", "/x/b": "- 600 1000:1000 b\n", "/x/suid": "- 4755 0:0 s\n", "/x/cap": "- 755 0:0 cap\n cap",
                "/x/h1": "- 644 0:0 hard\n"}),
    case("hard-links-and-special-modes-of-a-tree", 67, 69,
         dockerfile="FROM @busybox AS s\nRUN mkdir -m 1777 /t /t/in && mkdir -m 2750 /t/in/g && chown 5:6 /t /t/in/g "
                    "&& echo h > /t/a && ln /t/a /t/in/b\nFROM scratch\nCOPY --from=s /t /t",
         files={"/t": "d 755 0:0", "/t/a": "- 644 0:0 h\n", "/t/in": "d 1777 0:0", "/t/in/b": "- 644 0:0 h\n = /t/a",
                "/t/in/g": "d 2750 5:6"}),
    case("modes-of-the-context", 68, dockerfile="FROM scratch\nCOPY . /c",
         context={"Dockerfile": "", "a": File("a", 0o600), "b": File("b", 0o4751), "d": Dir(0o2770), "d/x": "x"},
         files={"/c": "d 755 0:0", "/c/Dockerfile": "- 644 0:0 FROM scratch\nCOPY . /c", "/c/a": "- 600 0:0 a",
                "/c/b": "- 4751 0:0 b", "/c/d": "d 2770 0:0", "/c/d/x": "- 644 0:0 x"}),
    case("times-of-the-context", 68, dockerfile="FROM scratch\nCOPY f /f", context={"f": File("f", mtime=1234567890)},
         times=("/f",), files={"/f": "- 644 0:0 f @1234567890"}),
    case("chmod-is-exact", 68, dockerfile="FROM scratch\nCOPY --chmod=0666 a /a\nCOPY --chmod=6777 a /b", context={"a": "a"},
         files={"/a": "- 666 0:0 a", "/b": "- 6777 0:0 a"}),
    case("onto-an-existing-directory", 69, context={"d/new": "new"},
         dockerfile="FROM @busybox\nRUN mkdir -m 711 /t && chown 5:6 /t && touch /t/old\nCOPY d /t\nCOPY d /t/",
         files={"/t": "d 711 5:6", "/t/old": "- 644 0:0", "/t/new": "- 644 0:0 new"}),
    case("chown-of-a-new-directory", 70, dockerfile=STAGE + "FROM scratch\nCOPY --chown=300:400 --from=s /data/sub /new",
         files={"/new": "d 755 300:400", "/new/c": "- 644 300:400 c\n", "/new/d": "- 644 300:400 d\n"}),
    case("chown-leaves-an-existing-directory", 70, dockerfile="FROM @busybox\nCOPY --chown=300:400 d /home/app", context={"d/x": "x"},
         files={"/home/app/x": "- 644 300:400 x"}),
    case("chmod-of-parents", 71, context={"foo": "foo"},
         dockerfile="FROM scratch\nCOPY --chmod=777 foo /parent/foo\nCOPY --chmod=770 foo /parent/sub/foo\n"
                    "COPY --chmod=u=rw,go= foo /symbolic/foo",
         files={"/parent": "d 777 0:0", "/parent/foo": "- 777 0:0 foo", "/parent/sub": "d 770 0:0",
                "/parent/sub/foo": "- 770 0:0 foo", "/symbolic": "d 755 0:0", "/symbolic/foo": "- 600 0:0 foo"}),
    case("chmod-zero", 72, dockerfile="FROM scratch\nCOPY --chmod=0 f /f", context={"f": "f"}, files={"/f": "- 0 0:0 f"}),
    case("chmod-64a", 72, dockerfile="FROM scratch\nCOPY --chmod=64a f /f", context={"f": "f"},
         error="invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777"),
    case("chmod-too-large", 72, dockerfile="FROM scratch\nCOPY --chmod=10000 f /f", context={"f": "f"},
         error="invalid chmod parameter: '10000'. it should be octal string and between 0 and 07777"),
    case("chmod-X-on-a-plain-file", 72, dockerfile="FROM scratch\nCOPY --chmod=a+X f /f", context={"f": File("f", 0o666)},
         files={"/f": "- 666 0:0 f"}),
    case("chmod-X-on-others", 72, dockerfile="FROM scratch\nCOPY --chmod=a+X d /d",
         context={"d/x": File("x", 0o744), "d/s": Dir(0o700)},
         files={"/d": "d 755 0:0", "/d/x": "- 755 0:0 x", "/d/s": "d 711 0:0"}),
    case("chmod-expands", 72, dockerfile="FROM scratch\nARG m=640\nCOPY --chmod=${m} f /f", context={"f": "f"},
         files={"/f": "- 640 0:0 f"}),
    *(case(f"chown-{name}", 73, dockerfile=f"FROM @busybox\nCOPY --chown={owner} f /f", context={"f": "f"},
           files={"/f": f"- 644 {got} f"})
      for name, owner, got in (("name", "daemon", "1:1"), ("number", "1000", "1000:1000"), ("number-and-group", "1000:staff", "1000:50"),
                               ("numbers", "12:34", "12:34"), ("unknown", "nosuch:nosuch", "0:0"), ("group", "app:daemon", "1000:1"))),
]  # fmt: skip


@pytest.mark.parametrize("case", OWNERS)
def test_owners_and_modes(shop, case: Case) -> None:
    shop.check(case)


LINKS = [
    case("a-source-that-is-a-link", 74, dockerfile="FROM scratch\nCOPY foo /x/", context={"bar": "bar", "foo": Link("bar")},
         files={"/x": "d 755 0:0", "/x/foo": "- 644 0:0 bar"}),
    case("a-match-that-is-a-link", 74, dockerfile="FROM scratch\nCOPY f* /x/", context={"bar": "bar", "foo": Link("bar")},
         files={"/x": "d 755 0:0", "/x/foo": "- 644 0:0 bar"}),
    case("a-link-of-a-stage", 74, dockerfile="FROM @files AS s\nFROM scratch\nCOPY --from=s /pub/l /x",
         files={"/x": "- 644 0:0 one\n"}),
    case("links-deeper-inside", 75, dockerfile="FROM scratch\nCOPY d /d",
         context={"d/l": Link("../f"), "d/none": Link("nowhere"), "d/abs": Link("/etc/passwd"), "f": "f"},
         files={"/d": "d 755 0:0", "/d/l": "l 0:0 -> ../f", "/d/none": "l 0:0 -> nowhere", "/d/abs": "l 0:0 -> /etc/passwd"}),
    case("a-link-on-the-way", 76, dockerfile="FROM scratch\nCOPY link/foo .", context={"sub/foo": "foo", "link": Link("sub")},
         files={"/foo": "- 644 0:0 foo"}),
    case("a-link-out-of-the-context", 76, dockerfile="FROM scratch\nCOPY link/foo .",
         context={"sub/foo": "foo", "in/link": Link("../../../sub"), "link": Link("/in/link")}, files={"/foo": "- 644 0:0 foo"}),
    case("a-destination-that-is-a-link", 77, dockerfile="FROM @busybox\nRUN ln -s ../tmp/t /symlink\nCOPY foo /symlink/",
         context={"foo": "foo"}, files={"/symlink": "l 0:0 -> ../tmp/t", "/tmp/t": "d 755 0:0", "/tmp/t/foo": "- 644 0:0 foo"}),
    case("a-directory-over-a-file", 78, dockerfile="FROM @busybox\nRUN mkdir /t && touch /t/x\nCOPY d /t", context={"d/x/y": "y"},
         error="cannot copy to non-directory"),
    case("a-directory-over-a-link", 78, dockerfile="FROM @busybox\nRUN mkdir /t && ln -s /tmp /t/x\nCOPY d /t", context={"d/x/y": "y"},
         error="cannot copy to non-directory"),
    case("a-file-over-a-directory", 78, dockerfile="FROM @busybox\nRUN mkdir -p /t/x\nCOPY d /t", context={"d/x": "x"},
         error="cannot replace to directory"),
    case("a-file-over-a-link", 78, dockerfile="FROM @busybox\nRUN mkdir /t && ln -s /etc/motd /t/x\nCOPY d /t", context={"d/x": "x"},
         files={"/t": "d 755 0:0", "/t/x": "- 644 0:0 x"}),
    case("a-socket", 79, dockerfile="FROM scratch\nCOPY s /s", context={"s": Special("socket")}, files={"/s": "- 755 0:0"}),
    case("nodes-of-a-stage", 79,
         dockerfile="FROM @busybox AS s\nRUN mkdir /n && mkfifo -m 640 /n/p\nFROM scratch\nCOPY --from=s /n /n",
         files={"/n": "d 755 0:0", "/n/p": "p 640 0:0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", LINKS)
def test_links_and_kinds(shop, case: Case) -> None:
    shop.check(case)


FLAGS = [
    case("link-follows-nothing", 80, dockerfile="FROM @busybox\nRUN ln -s /tmp /a\nCOPY --link f /a/b", context={"f": "f"},
         files={"/a": "d 755 0:0", "/a/b": "- 644 0:0 f"}),
    case("parents", 81, dockerfile="FROM scratch\nCOPY --parents a/b/c /d/", context={"a/b/c": "c", "a/x": "x"},
         files={"/d": "d 755 0:0", "/d/a": "d 755 0:0", "/d/a/b": "d 755 0:0", "/d/a/b/c": "- 644 0:0 c"}),
    case("parents-pivot", 81, dockerfile="FROM scratch\nCOPY --parents x/./y/z /d/", context={"x/y/z": "z"},
         files={"/d": "d 755 0:0", "/d/y": "d 755 0:0", "/d/y/z": "- 644 0:0 z"}),
    case("parents-pivot-wildcard", 81, dockerfile="FROM scratch\nCOPY --parents x/./*/c /d/", context={"x/y/c": "c", "x/z/d": "d"},
         files={"/d": "d 755 0:0", "/d/y": "d 755 0:0", "/d/y/c": "- 644 0:0 c"}),
    case("parents-double-star", 81, dockerfile="FROM scratch\nCOPY --parents a*/./c/**/e /d/",
         context={"a1/c/x/e": "1", "a2/c/e": "2", "a3/no/e": "3"},
         files={"/d": "d 755 0:0", "/d/c": "d 755 0:0", "/d/c/x": "d 755 0:0", "/d/c/x/e": "- 644 0:0 1", "/d/c/e": "- 644 0:0 2"}),
    case("parents-missing", 81, dockerfile="FROM scratch\nCOPY --parents a/nosuch /d/", context={"a/b": ""}, error="not found"),
    case("parents-nothing-matches", 81, dockerfile="FROM scratch\nCOPY --parents a/nosuch* /d/", context={"a/b": ""},
         files={"/d": "d 755 0:0"}),
    case("exclude", 82, dockerfile="FROM scratch\nCOPY --exclude=*/*.png --exclude=Dockerfile . /1",
         context={"dir1/x.png": "", "dir1/y": "y", "z.png": "z"},
         files={"/1": "d 755 0:0", "/1/dir1": "d 755 0:0", "/1/dir1/y": "- 644 0:0 y", "/1/z.png": "- 644 0:0 z"}),
    case("exclude-is-relative-to-each-match", 82, dockerfile="FROM scratch\nCOPY --exclude=*.txt dir* /4/",
         context={"dir1/a.txt": "", "dir1/b": "b", "dir2/c.txt": "", "dir2/sub/d.txt": "d"},
         files={"/4": "d 755 0:0", "/4/b": "- 644 0:0 b", "/4/sub": "d 755 0:0", "/4/sub/d.txt": "- 644 0:0 d"}),
    case("heredocs-into-a-directory", 83, dockerfile="FROM scratch\nCOPY <<EOF <<EOF2 double/\none\nEOF\ntwo\nEOF2\n",
         files={"/double": "d 755 0:0", "/double/EOF": "- 644 0:0 one\n", "/double/EOF2": "- 644 0:0 two\n"}),
    case("heredocs-expand-unless-quoted", 83,
         dockerfile="FROM scratch\nENV x=X\nCOPY <<A /a\n${x}\nA\nCOPY --chmod=755 --chown=1:2 <<'B' /b\n${x}\nB\n",
         files={"/a": "- 644 0:0 X\n", "/b": "- 755 1:2 ${x}\n"}),
    case("backslashes-of-heredocs", 84,
         dockerfile='FROM scratch\nENV x=X\nCOPY <<A /a\na\\\nb \\\\ \\$x "q" \'$x\'\nA\nCOPY <<"B" /b\na\\\nb \\\\ \\$x\nB\n',
         files={"/a": "- 644 0:0 a\nb \\ $x \"q\" 'X'\n", "/b": "- 644 0:0 a\\\nb \\\\ \\$x\n"}),
]  # fmt: skip


@pytest.mark.parametrize("case", FLAGS)
def test_flags_and_heredocs(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(68)
def test_times_are_no_part_of_what_is_copied(shop) -> None:
    dockerfile = "FROM @busybox\nCOPY f /times\nRUN cat /times"
    shop.build(dockerfile, {"f": File("the same", mtime=1)})
    assert shop.build(dockerfile, {"f": File("the same", mtime=2)}).result.ran == 0


@pytest.mark.rule(80)
def test_a_linked_layer_is_the_same_on_any_base(shop) -> None:
    context = {"f": File("linked", mtime=1)}
    built = [shop.build(f"FROM {base}\nCOPY --link f /linked/f", context) for base in ("scratch", "@busybox", "@rich")]
    assert len({b.raw["rootfs"]["diff_ids"][-1] for b in built}) == 1
    assert built[2].result.ran == 0


@pytest.mark.rule(62)
def test_the_error_names_what_was_perhaps_meant(shop) -> None:
    error = shop.fails("FROM scratch\nCOPY sever.py /", {"server.py": ""})
    assert (error.message, error.hint) == ('"/sever.py": not found', "did you mean server.py?")
    assert error.location is not None
    assert error.location.first == 2
