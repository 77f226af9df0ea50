"""WORKDIR, VOLUME and all that is in the config, rule by rule (99–110)."""

from __future__ import annotations

import pytest

from .images import Case, case

pytestmark = pytest.mark.system

DIRECTORIES = [
    case("joined", 99, dockerfile="FROM scratch\nWORKDIR /a\nWORKDIR b\nWORKDIR ..", files={"/a": "d 755 0:0", "/a/b": "d 755 0:0"}),
    case("of-a-user", 100, dockerfile="FROM @busybox\nUSER app\nWORKDIR /x/y\nWORKDIR /data/sub",
         files={"/x": "d 755 1000:1000", "/x/y": "d 755 1000:1000"}),
    case("of-a-user-and-group", 100, dockerfile="FROM @busybox\nUSER app:staff\nWORKDIR /x", files={"/x": "d 755 1000:50"}),
    case("in-scratch", 101, dockerfile="FROM scratch\nWORKDIR /foo", files={"/foo": "d 755 0:0"}),
    case("volume-makes-nothing", 102, dockerfile="FROM scratch\nVOLUME /v", files={}),
    case("changes-below-a-volume-stay", 102, dockerfile="FROM @busybox\nVOLUME /v\nRUN mkdir /v && touch /v/f",
         files={"/v": "d 755 0:0", "/v/f": "- 644 0:0"}),
]  # fmt: skip


@pytest.mark.parametrize("case", DIRECTORIES)
def test_directories(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(99, 101)
@pytest.mark.parametrize(("lines", "workdir", "layers"), [
    ("WORKDIR /a\nWORKDIR b\nWORKDIR ..", "/a", 3), ("WORKDIR /a\nWORKDIR $unset", "/a", 2), ("WORKDIR /", "/", 0),
    ("WORKDIR x", "/x", 1), ("WORKDIR /x//y/", "/x//y/", 1),
])
def test_workdir_in_the_config(shop, lines: str, workdir: str, layers: int) -> None:
    built = shop.build(f"FROM scratch\n{lines}")
    assert built.config["WorkingDir"] == workdir
    assert len(built.layers) == layers


def ports(*names: str) -> dict[str, dict[str, object]]:
    return {name: {} for name in names}


CONFIGS = [
    pytest.param("EXPOSE 8000-8002 53/UDP", {"ExposedPorts": ports("8000/tcp", "8001/tcp", "8002/tcp", "53/udp")}, id="ranges",
                 marks=pytest.mark.rule(103)),
    pytest.param("EXPOSE 0.0.0.0:1-2:3-4", {"ExposedPorts": ports("3/tcp", "4/tcp")}, id="host-ports", marks=pytest.mark.rule(103)),
    pytest.param('ARG P="1 2"\nEXPOSE $P', {"ExposedPorts": ports("1/tcp", "2/tcp")}, id="words", marks=pytest.mark.rule(103)),
    pytest.param("HEALTHCHECK CMD x\nHEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}, id="no-check", marks=pytest.mark.rule(104)),
    pytest.param("HEALTHCHECK --interval=1m --timeout=3s --start-period=2s --start-interval=5s --retries=2 CMD true",
                 {"Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 60 * 10**9, "Timeout": 3 * 10**9, "StartPeriod": 2 * 10**9,
                                  "StartInterval": 5 * 10**9, "Retries": 2}}, id="check", marks=pytest.mark.rule(104)),
    pytest.param('CMD ["a"]\nCMD ["b"]', {"Cmd": ["b"]}, id="two-cmds", marks=pytest.mark.rule(105)),
    pytest.param('CMD ["c"]\nENTRYPOINT ["e"]', {"Cmd": ["c"], "Entrypoint": ["e"]}, id="own-cmd-stays", marks=pytest.mark.rule(106)),
    pytest.param('STOPSIGNAL KILL', {"StopSignal": "KILL"}, id="signal", marks=pytest.mark.rule(110)),
    pytest.param("MAINTAINER x y", {"author": "x y"}, id="maintainer", marks=pytest.mark.rule(110)),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "config"), CONFIGS)
def test_the_config(shop, lines: str, config: dict[str, object]) -> None:
    built = shop.build(f"FROM scratch\n{lines}").config
    assert {name: built.get(name) for name in config} == config


@pytest.mark.rule(106)
def test_a_cmd_of_the_base_goes_with_a_new_entrypoint(shop) -> None:
    assert "Cmd" not in shop.build('FROM @busybox\nENTRYPOINT ["e"]').config
    assert shop.build('FROM @entry\nCMD ["c"]').config["Entrypoint"] == ["/bin/e", "-x"]


ERRORS = [
    case("port-with-a-name", 103, dockerfile="FROM scratch\nEXPOSE localhost:1:1", error="localhost"),
    case("port-protocol", 103, dockerfile="FROM scratch\nEXPOSE 80/xyz", error="xyz"),
    case("port-too-large", 103, dockerfile="FROM scratch\nEXPOSE 70000", error="70000"),
    case("interval-too-short", 104, dockerfile="FROM scratch\nHEALTHCHECK --interval=0.5ms CMD x", error="1ms"),
    case("negative-retries", 104, dockerfile="FROM scratch\nHEALTHCHECK --retries=-1 CMD x", error="retries"),
    case("unknown-signal", 110, dockerfile="FROM scratch\nSTOPSIGNAL nosuch", error="nosuch"),
]  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_what_no_image_can_have(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(105)
def test_labels_of_base_file_and_command_line(shop) -> None:
    built = shop.build("FROM @rich\nLABEL a=file b=file", labels={"b": "flag"})
    assert built.config["Labels"] == {"a": "file", "keep": "base", "b": "flag"}


@pytest.mark.rule(105)
def test_a_second_cmd_is_warned_of(shop) -> None:
    assert "MultipleInstructionsDisallowed" in shop.build('FROM scratch\nCMD ["a"]\nCMD ["b"]').warnings


@pytest.mark.rule(107)
def test_triggers_run_once_and_are_not_handed_down(shop) -> None:
    parent = "FROM @busybox AS parent\nONBUILD RUN echo ran >> /triggered\nFROM parent AS child\n"
    child = shop.build(parent)
    assert (child.files, child.config.get("OnBuild")) == ({"/triggered": "- 644 0:0 ran\n"}, None)
    grandchild = shop.build(parent + "FROM child\nRUN echo own >> /triggered")
    assert grandchild.files == {"/triggered": "- 644 0:0 ran\nown\n"}


@pytest.mark.rule(107)
def test_triggers_of_a_remote_base(shop) -> None:
    built = shop.build("FROM @onbuild\nRUN cat /onbuild/ran > /x", {"trigger.txt": "t"})
    assert built.files == {"/onbuild": "d 755 0:0", "/onbuild/trigger.txt": "- 644 0:0 t", "/onbuild/ran": "- 644 0:0 ran by yes\n",
                           "/x": "- 644 0:0 ran by yes\n"}
    assert "OnBuild" not in built.config
    assert shop.build("FROM scratch\nONBUILD COPY f /f").config["OnBuild"] == ["COPY f /f"]


HISTORY = """\
FROM @busybox AS other
RUN echo x > /foo2
FROM @busybox
LABEL a=b
ENV e=1 f=2
EXPOSE 1234/udp 2375
ARG foo=bar2
ARG bar
RUN true
COPY --from=other foo2 foo3
ADD f /f
WORKDIR /w
USER app
VOLUME /v
CMD ["a", "b"]
ENTRYPOINT x
SHELL ["/bin/ash", "-c"]
STOPSIGNAL 9
HEALTHCHECK NONE
ONBUILD RUN x
MAINTAINER me
"""


@pytest.mark.rule(108, 109)
def test_the_history(shop) -> None:
    built = shop.build(HISTORY, {"f": "f"}, args={"bar": "123"})
    assert built.history == [
        ("layer 0", False),
        ("LABEL a=b", True),
        ("ENV e=1 f=2", True),
        ("EXPOSE [1234/udp 2375/tcp]", True),
        ("ARG foo=bar2", True),
        ("ARG bar=123", True),
        ("RUN |2 foo=bar2 bar=123 /bin/sh -c true # buildkit", False),
        ("COPY foo2 foo3 # buildkit", False),
        ("ADD f /f # buildkit", False),
        ("WORKDIR /w", False),
        ("USER app", True),
        ("VOLUME [/v]", True),
        ('CMD ["a" "b"]', True),
        ('ENTRYPOINT ["/bin/sh" "-c" "x"]', True),
        ("SHELL [/bin/ash -c]", True),
        ("STOPSIGNAL 9", True),
        ("HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}", True),
        ("MAINTAINER me", True),
    ]
    assert built.raw["author"] == "me"


@pytest.mark.rule(109)
def test_a_run_that_changes_nothing_is_a_layer_all_the_same(shop) -> None:
    built = shop.build("FROM @busybox\nRUN true\nRUN true")
    assert built.layers == [[], []]
    assert [empty for _, empty in built.history] == [False] * 3
    assert len(built.raw["rootfs"]["diff_ids"]) == sum(not h.get("empty_layer") for h in built.raw["history"])
