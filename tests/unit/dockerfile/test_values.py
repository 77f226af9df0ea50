"""Ports, signals, durations, flags and suggestions."""

from __future__ import annotations

import pytest

from engine.dockerfile.durations import parse_duration
from engine.dockerfile.expose import parse_ports
from engine.dockerfile.flags import parse_flags
from engine.dockerfile.gotext import quote
from engine.dockerfile.signals import check_signal
from engine.dockerfile.suggest import did_you_mean, suggest
from engine.errors import DockerfileError


@pytest.mark.rule(103)
@pytest.mark.parametrize(
    ("words", "ports"),
    [
        (["8000-8002", "53/UDP"], ["8000/tcp", "8001/tcp", "8002/tcp", "53/udp"]),
        (["0.0.0.0:1-2:3-4"], ["3/tcp", "4/tcp"]),
        (["0.0.0.0:1234-1235:3333-3334/tcp"], ["3333/tcp", "3334/tcp"]),
        (["[2001:4860:0:2001::68]::333"], ["333/tcp"]),
        (["[::1]:80:80"], ["80/tcp"]),
        (["2001:4860:0:2001::68::333"], ["333/tcp"]),
        (["::1:80:80"], ["80/tcp"]),
        (["::::80"], ["80/tcp"]),
        (["1234:1234/sctp"], ["1234/sctp"]),
        (["8000-9000:80"], ["80/tcp"]),
        (["80/", "0", "65535"], ["80/tcp", "0/tcp", "65535/tcp"]),
        ([], []),
    ],
)
def test_ports(words: list[str], ports: list[str]) -> None:
    assert parse_ports(words) == ports


@pytest.mark.rule(103)
@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("localhost:1:1", "invalid IP address: localhost"),
        ("[::1:80:80", "invalid IP address: [::1"),
        ("fe80::1%eth0:80:80", "invalid IP address: fe80::1%eth0"),
        ("80/xyz", 'invalid port: "80/xyz": invalid proto: xyz'),
        ("/tcp", 'invalid port: "/tcp": no port specified'),
        ("70000", "invalid containerPort: 70000"),
        ("-1", "invalid containerPort: -1"),
        ("1_0", "invalid containerPort: 1_0"),
        ("9-8", "invalid containerPort: 9-8"),
        ("1-2-3", "invalid containerPort: 1-2-3"),
        ("x:80", "invalid hostPort: x"),
        ("1-3:3-4", "invalid ranges specified for container and host Ports: 3-4 and 1-3"),
        ("٣", "invalid containerPort: ٣"),
    ],
)
def test_ports_that_are_none(word: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_ports([word])
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["SIGTERM", "term", "sigusr1", "9", "-5", "+15", "RTMIN+3", "SIGRTMAX-14", "64"])
def test_signals(text: str) -> None:
    check_signal(text)


@pytest.mark.parametrize("text", ["SIGNOPE", "0", "", "SIG", "RTMIN+16", "9x", "1_0"])
def test_signals_that_are_none(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        check_signal(text)
    assert caught.value.message == f"invalid signal: {text}"


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("5s", 5 * 10**9),
        ("1m30s", 90 * 10**9),
        ("1.5h", 5400 * 10**9),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("-3ms", -3 * 10**6),
        ("+1us", 1000),
        ("1µs2ns", 1002),
        ("1μs", 1000),
        ("0.1ns", 0),
        ("-9223372036854775808ns", -(1 << 63)),
        ("2562047h47m16.854775807s", (1 << 63) - 1),
    ],
)
def test_durations(text: str, nanoseconds: int) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'time: invalid duration ""'),
        ("-", 'time: invalid duration "-"'),
        (".s", 'time: invalid duration ".s"'),
        ("x", 'time: invalid duration "x"'),
        ("5", 'time: missing unit in duration "5"'),
        ("1h5", 'time: missing unit in duration "1h5"'),
        ("5d", 'time: unknown unit "d" in duration "5d"'),
        ("1 s", 'time: unknown unit " s" in duration "1 s"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("9999999h", 'time: invalid duration "9999999h"'),
    ],
)
def test_durations_that_are_none(text: str, message: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_duration(text)
    assert caught.value.message == message


def test_flags_of_all_kinds() -> None:
    flags = parse_flags(["--a=1=2", "--b", "--c=x", "--c="], {"a": "text", "b": "bool", "c": "list", "d": "bool"})
    assert (flags.text("a"), flags.is_true("b"), flags.many("c")) == ("1=2", True, ("x", ""))
    assert (flags.boolean("b"), flags.boolean("d"), flags.text("z", "default")) == (True, None, "default")


@pytest.mark.parametrize(
    ("word", "options", "near"),
    [
        ("mont", ["mount", "network"], "mount"),
        ("typ", ["type", "tmpfs"], "type"),
        ("tmp", ["bind", "tmpfs", "ssh"], "tmpfs"),
        ("MOUNT", ["mount"], None),
        ("FNTRYPOINT", ["ENTRYPOINT"], "ENTRYPOINT"),
        ("fntrypoint", ["ENTRYPOINT"], "entrypoint"),
        ("xyz", ["abc"], None),
        ("", ["ab"], "ab"),
        ("kitten", ["sitting"], None),
        ("rnu", ["env", "run"], "run"),
        ("a" * 10_000, ["a" * 10_001], None),
    ],
)
def test_suggestions(word: str, options: list[str], near: str | None) -> None:
    assert suggest(word, options) == near


def test_suggestions_may_heed_case() -> None:
    assert suggest("Mount", ["mount"], case_sensitive=True) == "mount"
    assert did_you_mean("mont", ["mount"]) == " (did you mean mount?)"
    assert did_you_mean("x", ["mount"]) == ""


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("\n\t\x00\x7f", '"\\n\\t\\x00\\x7f"'),
        ("ü한\u200b\U000e0001", '"ü한\\u200b\\U000e0001"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_texts_quoted_as_go_does(text: str, quoted: str) -> None:
    assert quote(text) == quoted
