"""Parsing and variables, rule by rule (1–26), as far as an image shows them. The expansion itself is held to rules 1 to 8 word by
word in tests/unit/dockerfile/test_expand.py."""

from __future__ import annotations

import pytest

from .images import Case, case

pytestmark = pytest.mark.system


def env(name: str, *rules: int, lines: str, args: dict[str, str] | None = None, **want: str) -> object:
    return pytest.param(lines, args or {}, want, id=name, marks=pytest.mark.rule(*rules))


VALUES = [
    env("escaped-quote", 1, lines=r"ENV a=he\'llo b='it''s'", a="he'llo", b="its"),
    env("backslashes", 2, lines=r"""ENV a=abc\tdef b="abc\tdef" c="abc\\tdef" d='hello\\there'""", a="abctdef", b=r"abc\tdef", c=r"abc\tdef",
        d=r"hello\\there"),
    env("odd-dollars", 4, lines=r"ENV a=$. b=he$1x c=\${} d=x$$", a="$.", b="hex", c="${}", d="x"),
    env("nested-defaults", 5, lines="ENV a=${aaa}} b=${aaa:-${bbb:-ccc}}", a="}", b="ccc"),
    env("unset-and-empty", 7, lines='ARG FOO=xxx\nARG BAR=\nENV a="${FOO-aaa} ${BAR-bbb} ${BAZ-ccc}" b="${FOO:-aaa} ${BAR:-bbb} ${BAZ:-ccc}" '
        'c="${FOO+a} ${BAR+b} ${BAZ+c}"', a="xxx  ccc", b="xxx bbb ccc", c="a b "),
    env("trimming", 8, lines="ARG FOO=xxyy\nENV a=${FOO##*x} b=${FOO#*x*y} c=${FOO%} d=${FOO///}", a="yy", b="y", c="xxyy", d="xxyy"),
    env("values-from-before-the-instruction", 10, lines="ENV a=1\nENV a=2 b=$a", a="2", b="1"),
    env("percent", 11, lines="ENV myenv foo%sbar", myenv="foo%sbar"),
    env("default-not-evaluated", 14, lines='ARG BAR=${FOO:?"foo missing"}\nENV x=$BAR', args={"BAR": "123"}, x="123"),
    env("default-evaluated", 14, lines='ARG FOO\nARG BAR=${FOO:?"foo missing"}\nENV x=$BAR', args={"FOO": "123"}, x="123"),
    env("empty-build-argument", 15, lines='ARG x\nENV x "${x:-def}"', args={"x": ""}, x="def"),
    env("arg-after-env", 16, lines="ENV X=env\nARG X=arg\nENV got=$X", X="env", got="arg"),
    env("env-after-arg", 16, lines="ARG X=arg\nENV X=env\nENV got=$X", X="env", got="env"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "args", "want"), VALUES)
def test_values(shop, lines: str, args: dict[str, str], want: dict[str, str]) -> None:
    got = dict(pair.split("=", 1) for pair in shop.build(f"FROM scratch\n{lines}", args=args).config["Env"])
    assert {name: got.get(name) for name in want} == want


SEEN = [
    case("global-args", 12, dockerfile='ARG a1="foo bar" a2=box\nARG a3="$a2-foo"\nFROM @busybox\nARG a3 a4="123 456" a1\n'
                                       'RUN echo "$a1/$a2/$a3/$a4" > /x', files={"/x": "- 644 0:0 foo bar//box-foo/123 456\n"}),
    case("unset-and-empty-in-run", 13, dockerfile="FROM @busybox\nARG FOO\nARG BAR=\nRUN env | grep -E '^(FOO|BAR)' > /x",
         files={"/x": "- 644 0:0 BAR=\n"}),
    case("arg-after-env-in-run", 16, dockerfile="FROM @busybox\nENV X=env\nARG X=arg\nRUN echo $X > /x", files={"/x": "- 644 0:0 arg\n"}),
    case("env-after-arg-in-run", 16, dockerfile="FROM @busybox\nARG X=arg\nENV X=env\nRUN echo $X > /x", files={"/x": "- 644 0:0 env\n"}),
    case("scope", 17, dockerfile="FROM @busybox AS one\nARG v=1\nFROM one AS child\nRUN echo -$v- > /child\nFROM @busybox\n"
                                 "COPY --from=child /child /\nRUN echo -$v- > /sibling",
         files={"/child": "- 644 0:0 -1-\n", "/sibling": "- 644 0:0 --\n"}),
]  # fmt: skip


@pytest.mark.parametrize("case", SEEN)
def test_what_a_step_sees(shop, case: Case) -> None:
    shop.check(case)


MISTAKES = [
    case("required", 14, dockerfile='FROM scratch\nARG BAR=${FOO:?"foo missing"}', error="FOO: foo missing"),
    case("required-with-a-variable", 6, dockerfile="FROM scratch\nARG ARG=what\nENV x=\"${VAR:?no $ARG}\"", error="VAR: no what"),
    case("open-quote", 1, dockerfile="FROM scratch\nENV a=he'llo", error="quote"),
    case("open-brace", 5, dockerfile="FROM scratch\nENV a=${aaa", error="a=|aaa"),
    case("unsupported-modifier", 5, dockerfile="FROM scratch\nENV a=${PWD:=0}", error=r"unsupported modifier \(:=\)"),
    case("second-slash-missing", 8, dockerfile="FROM scratch\nENV a=${FOO//ww}", error="missing '/'"),
    case("no-stage", 20, dockerfile="ARG foo=bar", error="dockerfile contains no stages to build"),
    case("no-instruction", 20, dockerfile="# nothing", error="file with no instructions"),
    case("unknown-instruction", 21, dockerfile="FROM scratch\nFNTRYPOINT x", error="unknown instruction: FNTRYPOINT.*did you mean ENTRYPOINT"),
    case("one-word-copy", 22, dockerfile="FROM scratch\nCOPY x", error="COPY requires at least two arguments"),
    case("unknown-flag", 22, dockerfile="FROM scratch\nMAINTAINER --boo x", error="unknown flag: --boo"),
    case("unknown-flag-with-suggestion", 23, dockerfile="FROM scratch\nRUN --mont=type=tmpfs x", error="unknown flag: --mont.*did you mean mount"),
    case("directive-twice", 26, dockerfile="# escape=\\\n# escape=\\\nFROM scratch", error="only one escape parser directive can be used"),
]  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(shop, case: Case) -> None:
    shop.check(case)


@pytest.mark.rule(26)
@pytest.mark.parametrize("above", ["# a comment", ""])
def test_a_directive_below_something_else_is_a_comment(shop, above: str) -> None:
    built = shop.build(f"{above}\n# escape=`\nFROM scratch\nENV a=b\\\nc=d")
    assert built.config["Env"][-1] == "a=bc=d"


@pytest.mark.rule(6)
def test_required_variables_that_are_there(shop) -> None:
    assert "x=set" in shop.build("FROM scratch\nARG v=set\nENV x=${v:?no}").config["Env"]


@pytest.mark.rule(4, 123)
def test_a_variable_that_nothing_sets_is_warned_of(shop) -> None:
    lines = "ENV a=$FOO b=$PATH c=$NOWHERE"
    assert shop.build(f"FROM @busybox\n{lines}").warnings == ["UndefinedVar", "UndefinedVar"]
    assert shop.build(f"FROM @rich\n{lines}").warnings == ["UndefinedVar"]
    assert "UndefinedVar" in shop.fails(f"# check=error=true\nFROM @rich\n{lines}").message


@pytest.mark.rule("T10")
def test_a_changed_variable_keeps_its_place_and_unknown_build_arguments_are_no_error(shop) -> None:
    built = shop.build("FROM @rich\nENV NEW=1 FOO=changed\nENV EMPTY=x$EMPTY", args={"NOBODY": "knows"})
    assert built.config["Env"][1:] == ["FOO=changed", "EMPTY=x", "SPACED=base bar", "NEW=1"]


@pytest.mark.rule("T4")
def test_what_is_kept_for_the_shell_or_the_image(shop) -> None:
    built = shop.build('FROM scratch\nENV V=v\nLABEL $V=$V "${V}2"=x\nCMD echo $V\nENTRYPOINT ["$V"]\nHEALTHCHECK CMD $V\nSHELL ["$V"]\n'
                       "MAINTAINER $V\nUSER $V\nVOLUME /$V\nSTOPSIGNAL ${V:+9}\nONBUILD RUN $V")  # fmt: skip
    config = built.config
    assert config["Labels"] == {"v": "v", "v2": "x"}
    assert (config["Cmd"], config["Entrypoint"]) == (["/bin/sh", "-c", "echo $V"], ["$V"])
    assert (config["Healthcheck"]["Test"], config["Shell"], config["author"]) == (["CMD-SHELL", "$V"], ["$V"], "$V")
    assert (config["User"], config["Volumes"], config["StopSignal"], config["OnBuild"]) == ("v", {"/v": {}}, "9", ["RUN $V"])


@pytest.mark.rule("T3")
def test_a_stage_of_another_platform(shop) -> None:
    built = shop.build("FROM --platform=linux/arm64 @multi AS other\nFROM scratch\nARG TARGETPLATFORM\nARG BUILDARCH\n"
                       "ENV t=$TARGETPLATFORM b=$BUILDARCH\nCOPY --from=other /arch /arch", platform="linux/s390x")  # fmt: skip
    assert built.files == {"/arch": "- 644 0:0 arm64\n"}
    assert built.raw["architecture"] == "s390x"
    assert built.config["Env"][1] == "t=linux/s390x"
