"""RUN, USER and SHELL, rule by rule (28–46)."""

from __future__ import annotations

import pytest

from .images import Case, case

pytestmark = pytest.mark.system

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

COMMANDS = [
    case("broken-json-is-for-the-shell", 28, dockerfile='FROM @busybox\nRUN ["echo", "hi"]junk', error='/bin/sh -c ."echo", "hi".junk'),
    case("heredoc-with-a-program", 29, dockerfile='FROM @busybox\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print "awk" > "/x" }\nEOF\n',
         files={"/x": "- 644 0:0 awk\n"}),
    case("heredoc-with-a-program-and-tabs", 29,
         dockerfile='FROM @busybox\nRUN <<-EOF\n\t#!/bin/awk -f\n\tBEGIN { print "\tawk" > "/x" }\nEOF\n', files={"/x": "- 644 0:0 \tawk\n"}),
    case("heredoc-for-another-shell", 30, dockerfile='FROM @busybox\nSHELL ["/bin/awk"]\nRUN <<EOF\nBEGIN {\n  print "a" > "/x"\n}\nEOF\n',
         files={"/x": "- 644 0:0 a\n"}),
    case("heredoc-variables-are-the-shells", 31,
         dockerfile='FROM @busybox\nARG name=builder\nARG arg=given\nRUN <<EOF\nname="new world"\necho "hello ${name} $arg" > /x\nEOF\n',
         files={"/x": "- 644 0:0 hello new world given\n"}),
    case("several-heredocs", 32, dockerfile="FROM @busybox\nRUN { cat; cat <&3; } <<A 3<<B > /x\na\nA\nb\nB\n",
         files={"/x": "- 644 0:0 a\nb\n"}),
    case("exec-form-expands-nothing", 31, dockerfile='FROM @busybox\nENV x=X\nRUN ["touch", "/$x"]', files={"/$x": "- 644 0:0"}),
    case("hostname", 41, dockerfile="FROM @busybox\nRUN hostname > /x", files={"/x": "- 644 0:0 buildkitsandbox\n"}),
    case("another-hostname", 41, dockerfile="FROM @busybox\nRUN hostname > /x", args={"BUILDKIT_SANDBOX_HOSTNAME": "other"},
         files={"/x": "- 644 0:0 other\n"}),
    case("no-hidden-root", 42, dockerfile="FROM @busybox\nUSER 1000\nRUN mkdir /x", error="exit code: 1"),
    case("background-processes-end", 43, dockerfile="FROM @busybox\nRUN (sleep 1000; touch /late) & touch /x", files={"/x": "- 644 0:0"}),
    case("failure", 44, dockerfile="FROM @busybox\nRUN exit 7", error='process "/bin/sh -c exit 7" did not complete successfully: exit code: 7'),
    case("target-stage-undeclared", 18, dockerfile="FROM @busybox\nRUN echo $TARGETSTAGE > /x", files={"/x": "- 644 0:0 \n"}),
    case("target-stage-named", 18, dockerfile="FROM @busybox AS foo\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /x\nFROM scratch",
         target="foo", files={"/x": "- 644 0:0 foo\n"}),
    case("target-stage-last", 18, dockerfile="FROM @busybox\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /x", files={"/x": "- 644 0:0 default\n"}),
]  # fmt: skip


@pytest.mark.parametrize("case", COMMANDS)
def test_what_runs(shop, case: Case) -> None:
    shop.check(case)


USERS = [
    pytest.param(user, said, id=user, marks=pytest.mark.rule(*rules)) for user, said, rules in (
        ("1234", "uid=1234 gid=0(root) groups=0(root)", (35,)),
        ("1234:1234", "uid=1234 gid=1234 groups=1234", (35,)),
        ("daemon", "uid=1(daemon) gid=1(daemon) groups=1(daemon),2002(more)", (35, 36)),
        ("multi", "uid=1001(multi) gid=1001(multi) groups=1001(multi),2001(extra),2002(more)", (36,)),
        ("1001", "uid=1001(multi) gid=1001(multi) groups=1001(multi),2001(extra),2002(more)", (36,)),
        ("multi:multi", "uid=1001(multi) gid=1001(multi) groups=1001(multi)", (36,)),
        ("multi:extra", "uid=1001(multi) gid=2001(extra) groups=2001(extra)", (36,)),
        ("app:50", "uid=1000(app) gid=50(staff) groups=50(staff)", (36,)),
        ("root:extra", "uid=0(root) gid=2001(extra) groups=2001(extra)", (38,)),
    )
]  # fmt: skip


@pytest.mark.parametrize(("user", "said"), USERS)
def test_who_a_user_is(shop, user: str, said: str) -> None:
    built = shop.build(f"FROM @busybox\nUSER {user}\nRUN id > /tmp/id")
    assert built.files["/tmp/id"].partition(" ")[2].partition(" ")[2].partition(" ")[2] == said + "\n"
    assert built.config["User"] == user


@pytest.mark.rule(36)
def test_groups_are_looked_up_when_the_step_runs(shop) -> None:
    built = shop.build("FROM @busybox\nRUN echo team:x:1002:app >> /etc/group\nUSER app\nRUN id > /tmp/id")
    assert built.files["/tmp/id"].endswith("groups=1000(app),1002(team)\n")


@pytest.mark.rule(37)
def test_an_unknown_user_fails_when_something_runs_and_not_before(shop) -> None:
    assert shop.build("FROM @busybox\nUSER nosuch").config["User"] == "nosuch"
    error = shop.fails("FROM @busybox\nUSER nosuch\nRUN true")
    assert "unable to find user nosuch" in error.message
    assert error.location.first == 3


@pytest.mark.rule(39)
def test_the_user_is_kept_as_written(shop) -> None:
    assert shop.build("FROM @busybox\nUSER daemon:more").config["User"] == "daemon:more"
    assert shop.build("FROM @busybox\nENV u=app\nUSER $u").config["User"] == "app"


@pytest.mark.rule(40)
@pytest.mark.parametrize(("user", "home"), [("root", "/root"), ("app", "/home/app"), ("1000", "/home/app"), ("4321", "/")])
def test_home(shop, user: str, home: str) -> None:
    assert shop.build(f"FROM @busybox\nUSER {user}\nRUN echo $HOME > /tmp/home").files["/tmp/home"].endswith(f" {home}\n")


@pytest.mark.rule(40)
def test_home_that_is_said_is_kept(shop) -> None:
    assert shop.build("FROM @busybox\nENV HOME=/said\nRUN echo $HOME > /home.txt").files["/home.txt"] == "- 644 0:0 /said\n"


@pytest.mark.rule(41)
def test_the_hostname_is_not_in_the_image(shop) -> None:
    built = shop.build("FROM @busybox\nRUN hostname")
    assert "Hostname" not in built.raw["config"]
    assert built.files == {}


@pytest.mark.rule(44)
def test_a_failure_has_code_place_and_output(shop) -> None:
    error = shop.fails("FROM @busybox\nRUN echo why; exit 7")
    assert (error.status, error.output, error.location.first) == (7, ("why",), 2)


CONFIGS = [
    pytest.param('FROM @entry\nSHELL ["ls"]\nENTRYPOINT my entrypoint', {"Entrypoint": ["ls", "my entrypoint"], "Cmd": None},
                 id="shell-form-takes-the-shell", marks=pytest.mark.rule(33)),
    pytest.param("FROM scratch\nENTRYPOINT foo bar", {"Entrypoint": ["/bin/sh", "-c", "foo bar"], "Env": [PATH]}, id="default-shell",
                 marks=pytest.mark.rule(34)),
    pytest.param("FROM scratch\nENTRYPOINT []junk", {"Entrypoint": ["/bin/sh", "-c", "[]junk"]}, id="broken-json",
                 marks=pytest.mark.rule(28)),
    pytest.param("FROM scratch\nENTRYPOINT []\nCMD []", {"Entrypoint": None, "Cmd": None}, id="empty-json", marks=pytest.mark.rule(28)),
]  # fmt: skip


@pytest.mark.parametrize(("dockerfile", "config"), CONFIGS)
def test_shell_forms(shop, dockerfile: str, config: dict[str, object]) -> None:
    got = shop.build(dockerfile).config
    assert {name: got.get(name) for name in config} == config


@pytest.mark.rule(28)
def test_a_list_with_a_number_is_an_error(shop) -> None:
    assert "JSON" in shop.fails('FROM scratch\nCMD ["a", 1]').message


@pytest.mark.rule(34)
def test_windows_has_no_default_path(shop) -> None:
    assert "Env" not in shop.build("FROM scratch\nENTRYPOINT [\"x\"]", platform="windows/amd64").config


@pytest.mark.rule(45)
def test_proxies_reach_run_and_nothing_else(shop) -> None:
    dockerfile = "FROM @busybox\nRUN echo $HTTP_PROXY $http_proxy $NO_PROXY > /proxies"
    built = shop.build(dockerfile, args={"http_proxy": "hp", "NO_PROXY": "np"})
    assert built.files == {"/proxies": "- 644 0:0 hp hp np\n"}
    assert not any("hp" in by for by, _ in built.history)
    again = shop.build(dockerfile, args={"http_proxy": "other", "NO_PROXY": "np"})
    assert (again.result.ran, again.files) == (0, built.files)


@pytest.mark.rule(46)
def test_a_build_argument_counts_from_its_line_on(shop) -> None:
    dockerfile = "FROM @busybox\nRUN echo before > /b\nARG v\nRUN echo after > /a"
    shop.build(dockerfile, args={"v": "1"})
    again = shop.build(dockerfile, args={"v": "2"})
    assert (again.result.cached, again.result.ran) == (1, 1)
