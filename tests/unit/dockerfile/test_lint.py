"""The build checks: their names, messages and places are BuildKit's."""

from __future__ import annotations

import pytest

from engine.dockerfile.ignore import IgnoreMatcher
from engine.dockerfile.lint import enforce, lint
from engine.dockerfile.parser import parse
from engine.errors import DockerfileError


def warnings(text: str) -> list[tuple[str, int, str]]:
    return [(w.rule, w.location.first, w.message) for w in lint(parse(text.encode()))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM scratch AS Bad\n", ("StageNameCasing", 1, "Stage name 'Bad' should be lowercase")),
        ("FROM scratch as ok\n", ("FromAsCasing", 1, "'as' and 'FROM' keywords' casing do not match")),
        ("from scratch AS ok\n", ("FromAsCasing", 1, "'AS' and 'from' keywords' casing do not match")),
        ("FROM scratch\nCOPY a \\\n\n.\n", ("NoEmptyContinuation", 4, "Empty continuation line")),
        (
            "FROM scratch\ncopy a /b\nCOPY a /c\n",
            ("ConsistentInstructionCasing", 2, "Command 'copy' should match the case of the command majority (uppercase)"),
        ),
        (
            "from scratch\nCOPY a /b\ncopy a /c\n",
            ("ConsistentInstructionCasing", 2, "Command 'COPY' should match the case of the command majority (lowercase)"),
        ),
        (
            "FROM scratch\nRun [\"x\"]\nUSER a\n",
            ("ConsistentInstructionCasing", 2, "Command 'Run' should match the case of the command majority (uppercase)"),
        ),
        (
            "FROM scratch AS a\nFROM scratch AS a\n",
            ("DuplicateStageName", 2, 'Duplicate stage name "a", stage names should be unique'),
        ),
        (
            "FROM x AS scratch\n",
            ("ReservedStageName", 1, 'Stage name should not use the same name as reserved stage "scratch"'),
        ),
        (
            "FROM scratch\nCMD a\n",
            (
                "JSONArgsRecommended",
                2,
                "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            ),
        ),
        (
            "FROM scratch\nMAINTAINER a\n",
            ("MaintainerDeprecated", 2, "Maintainer instruction is deprecated in favor of using label"),
        ),
        (
            "ARG VERSION=1\nFROM a:${VERSON}x\n",
            ("UndefinedArgInFrom", 2, "FROM argument 'VERSON' is not declared (did you mean VERSION?)"),
        ),
        ("FROM --platform=$X busybox\n", ("UndefinedArgInFrom", 1, "FROM argument 'X' is not declared")),
        (
            "FROM scratch\nWORKDIR app\nWORKDIR b\n",
            ("WorkdirRelativePath", 2, 'Relative workdir "app" can have unexpected results if the base image changes'),
        ),
        (
            "FROM scratch\nENV DIR=x\nWORKDIR /$DRI\n",
            ("UndefinedVar", 3, "Usage of undefined variable '$DRI' (did you mean $DIR?)"),
        ),
        ("FROM scratch\nCOPY <<E /f\n$foo\nE\n", ("UndefinedVar", 2, "Usage of undefined variable '$foo'")),
        ("FROM scratch\nRUN --mount=target=$FOO [\"x\"]\n", ("UndefinedVar", 2, "Usage of undefined variable '$FOO'")),
        (
            'FROM scratch\nCMD ["a"]\nENTRYPOINT ["x"]\nCMD ["b"]\n',
            (
                "MultipleInstructionsDisallowed",
                2,
                "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            ),
        ),
        (
            "FROM scratch\nENV a b\n",
            ("LegacyKeyValueFormat", 2, '"ENV key=value" should be used instead of legacy "ENV key value" format'),
        ),
        (
            "FROM scratch\nLABEL a b=c\n",
            ("LegacyKeyValueFormat", 2, '"LABEL key=value" should be used instead of legacy "LABEL key value" format'),
        ),
        (
            "FROM --platform=${TARGETPLATFORM} busybox\n",
            (
                "RedundantTargetPlatform",
                1,
                "Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior",
            ),
        ),
        (
            "FROM scratch\nARG AWS_SECRET=1\n",
            ("SecretsUsedInArgOrEnv", 2, 'Do not use ARG or ENV instructions for sensitive data (ARG "AWS_SECRET")'),
        ),
        (
            "FROM scratch\nENV token=x\n",
            ("SecretsUsedInArgOrEnv", 2, 'Do not use ARG or ENV instructions for sensitive data (ENV "token")'),
        ),
        (
            "ARG TAG\nFROM busybox:${TAG}\n",
            (
                "InvalidDefaultArgInFrom",
                2,
                "Default value for ARG busybox:${TAG} results in empty or invalid base image name",
            ),
        ),
        (
            "FROM --platform=linux/arm64 busybox\n",
            (
                "FromPlatformFlagConstDisallowed",
                1,
                'FROM --platform flag should not use constant value "linux/arm64"',
            ),
        ),
        (
            "FROM scratch\nEXPOSE 80/TcP\n",
            ("ExposeProtoCasing", 2, "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase"),
        ),
        (
            "FROM scratch\nEXPOSE 127.0.0.1:80:80\n",
            (
                "ExposeInvalidFormat",
                2,
                "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
            ),
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\nFROM scratch\n# other words\nARG foo\n",
            ("InvalidDefinitionDescription", 4, "Comment for ARG should follow the format: `# foo <description>`"),
        ),
    ],
)
def test_checks(text: str, expected: tuple[str, int, str]) -> None:
    assert warnings(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch AS a\nFROM a\n",
        "from scratch as a\nfrom a\n",
        'FROM scratch\nSHELL ["x"]\nCMD a\n',
        'FROM scratch AS a\nSHELL ["x"]\nFROM a\nCMD a\n',
        "FROM scratch\nENV PUBLIC_KEY=a KEY_FILE=b MONKEY=c TOKEN_VERSION=d\n",
        "FROM scratch\nARG a\nENV b=$a c=$PATH\nUSER $b\n",
        "FROM scratch AS a\nENV x=y\nFROM a\nUSER $x\n",
        "ARG x=1\nFROM scratch\nARG y=$x\nARG TARGETARCH\nUSER $TARGETARCH\n",
        "FROM busybox\nUSER $whoknows\n",
        "FROM --platform=$BUILDPLATFORM busybox\n",
        "FROM --platform=linux/arm64 busybox AS build-arm64\n",
        "FROM busybox\nWORKDIR /a\nWORKDIR b\n",
        "FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n",
        "FROM busybox\nWORKDIR $x\n",
        "FROM scratch\n# a description that is none\n\nARG foo\n",
    ],
)
def test_what_is_no_reason_to_warn(text: str) -> None:
    assert warnings(text) == []


@pytest.mark.rule(123)
@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("# check=skip=all\nFROM scratch\nCMD a\nMAINTAINER x\n", []),
        ("# check=skip=JSONArgsRecommended , Other\nFROM scratch\nCMD a\nMAINTAINER x\n", ["MaintainerDeprecated"]),
        ("FROM scratch\n# check=skip=JSONArgsRecommended\nCMD a\nMAINTAINER x\n", ["MaintainerDeprecated"]),
        ("FROM scratch\n# check=skip=all\n# why\nCMD a\nMAINTAINER x\n", ["MaintainerDeprecated"]),
        ("FROM scratch\n# check=skip=all\n\nCMD a\n", ["JSONArgsRecommended"]),
        ("FROM scratch\n# check=nonsense\nCMD a\n", ["JSONArgsRecommended"]),
        ("# check=experimental=all\nFROM scratch\n# x\nARG a\n", ["InvalidDefinitionDescription"]),
        ("FROM scratch\n# x\nARG a\n", []),
    ],
)
def test_checks_can_be_left_out(text: str, rules: list[str]) -> None:
    assert [rule for rule, _, _ in warnings(text)] == rules


@pytest.mark.rule(123)
def test_a_file_that_wants_no_warnings_fails_with_them() -> None:
    file = parse(b"# check=error=true\nFROM scratch\nCMD a\nMAINTAINER x\n")
    with pytest.raises(DockerfileError) as caught:
        enforce(file, lint(file))
    assert caught.value.message == "lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated"
    assert caught.value.location is not None and caught.value.location.first == 3
    enforce(file, [])
    lenient = parse(b"FROM scratch\nCMD a\n")
    enforce(lenient, lint(lenient))


def test_variables_of_known_base_images_are_defined() -> None:
    file = parse(b"ARG V=1\nFROM img:$V\nUSER $HOME_DIR\nWORKDIR /$OTHER\n")
    found = lint(file, base_environments={"img:1": ["HOME_DIR"]})
    assert [w.message for w in found] == ["Usage of undefined variable '$OTHER'"]


@pytest.mark.rule(98)
def test_files_that_the_context_leaves_out() -> None:
    file = parse(b"# check=experimental=CopyIgnoredFile\nFROM scratch\nCOPY a b/c /\nADD ./d/ /\nCOPY --from=x a /\n")
    assert [w.message for w in lint(file, ignored=IgnoreMatcher(["a", "d"]))] == [
        'Attempting to Copy file "a" that is excluded by .dockerignore',
        'Attempting to Add file "d" that is excluded by .dockerignore',
    ]
    assert lint(file, ignored=IgnoreMatcher(["a", "!b"])) == []
