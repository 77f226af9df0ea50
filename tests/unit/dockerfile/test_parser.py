"""Dockerfiles → instructions: lines, comments, continuations, forms, stages."""

from __future__ import annotations

import pytest

from engine.dockerfile.instructions import (
    Arg,
    Cmd,
    Command,
    Copy,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    HealthcheckInstruction,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
)
from engine.dockerfile.parser import parse, parse_trigger
from engine.errors import DockerfileError, Location


def of(text: str) -> Dockerfile:
    return parse(text.encode())


def one(line: str) -> Instruction:
    """The instruction that some lines make in a stage."""
    (stage,) = of(f"FROM scratch\n{line}\n").stages
    (instruction,) = stage.instructions
    return instruction


def shell(line: str) -> Command:
    return Command((line,), shell=True)


def exec_form(*words: str) -> Command:
    return Command(words, shell=False)


@pytest.mark.rule(11, 28, 104)
@pytest.mark.parametrize(
    ("line", "instruction"),
    [
        ("RUN echo hi", Run(shell("echo hi"))),
        ("run   echo  'a  b'  ", Run(shell("echo  'a  b'"))),
        ('RUN ["echo", "hi"]', Run(exec_form("echo", "hi"))),
        ('RUN ["echo", "hi"]junk', Run(shell('["echo", "hi"]junk'))),
        ("RUN ['single']", Run(shell("['single']"))),
        ('RUN ["c:\\x"]', Run(shell('["c:\\x"]'))),
        ("RUN", Run(shell(""))),
        (
            "RUN --network=none --security=insecure --device=a --mount=type=tmpfs,target=/a --mount=target=$x cmd",
            Run(shell("cmd"), (), ("type=tmpfs,target=/a", "target=$x"), "none", "insecure", ("a",)),
        ),
        ("RUN -- --mount=x", Run(shell("--mount=x"))),
        ("RUN --mount=\"type=bind\",'target=/a b' x", Run(shell("x"), (), ("type=bind,target=/a b",))),
        ('CMD ["a","b c"]', Cmd(exec_form("a", "b c"))),
        ("CMD []", Cmd(exec_form())),
        ("CMD", Cmd(shell(""))),
        ("ENTRYPOINT []junk", Entrypoint(shell("[]junk"))),
        ("ENTRYPOINT a b", Entrypoint(shell("a b"))),
        ("COPY a b /c/", Copy(("a", "b"), "/c/")),
        ('COPY ["a b", "/c"]', Copy(("a b",), "/c")),
        (
            "COPY --from=x --chown=1:2 --chmod=755 --link --parents=true --exclude=*.a --exclude=b a b",
            Copy(("a",), "b", from_="x", chown="1:2", chmod="755", link=True, parents=True, exclude=("*.a", "b")),
        ),
        ("COPY --link=false a b", Copy(("a",), "b")),
        (
            "ADD --checksum=sha256:x --keep-git-dir --unpack=false http://h/f /",
            Copy(("http://h/f",), "/", add=True, checksum="sha256:x", keep_git_dir=True, unpack=False),
        ),
        ("ENV a=b c='d e' f=\"g \\\" h\" i=j\\ k", Env((("a", "b"), ("c", "'d e'"), ("f", '"g \\" h"'), ("i", "j\\ k")))),
        ("ENV a=b\\\\\\", Env((("a", "b\\\\"),))),
        ('ENV a="b\\\\\\', Env((("a", '"b\\\\'),))),
        ("ENV a='b c", Env((("a", "'b c"),))),
        ("ENV name some  value = x", Env((("name", "some  value = x"),))),
        ("ENV myenv foo%sbar", Env((("myenv", "foo%sbar"),))),
        ("ENV a= b=''", Env((("a", ""), ("b", "''")))),
        ("LABEL a.b=c d=e", Label((("a.b", "c"), ("d", "e")))),
        ('LABEL "a b"="c d"', Label((('"a b"', '"c d"'),))),
        ("ARG a b=c d=", Arg((("a", None), ("b", "c"), ("d", "")))),
        ('ARG a="b c"', Arg((("a", '"b c"'),))),
        ("WORKDIR /a b", Workdir("/a b")),
        ("USER app:app", User("app:app")),
        ("VOLUME /a /b", Volume(("/a", "/b"))),
        ('VOLUME ["/a b", " /c "]', Volume(("/a b", "/c"))),
        ("EXPOSE 80 443/udp 22", Expose(("22", "443/udp", "80"))),
        ("STOPSIGNAL $S", Stopsignal("$S")),
        ('SHELL ["/bin/bash", "-c"]', Shell(("/bin/bash", "-c"))),
        ("MAINTAINER A B <c>", Maintainer("A B <c>")),
        ("HEALTHCHECK none", HealthcheckInstruction(("NONE",))),
        ("HEALTHCHECK CMD curl  x", HealthcheckInstruction(("CMD-SHELL", "curl  x"))),
        (
            'HEALTHCHECK --interval=1m30s --timeout=0 --start-period=1.5s --start-interval=5s --retries=3 cmd ["a"]',
            HealthcheckInstruction(("CMD", "a"), 90 * 10**9, 0, 1_500_000_000, 5 * 10**9, 3),
        ),
        ("ONBUILD RUN a  b ", Onbuild("RUN a  b ")),
        ("onbuild   copy --from=x a b", Onbuild("copy --from=x a b")),
        ("ONBUILD FOO", Onbuild("FOO")),
    ],
)
def test_instructions(line: str, instruction: Instruction) -> None:
    assert one(line) == instruction


def test_stages_and_global_args() -> None:
    file = of("ARG A=1 B\nARG C\nFROM --platform=$P img:$A AS Build-1\nRUN x\nfrom build-1\nFROM scratch as z.y_x\n")
    assert [arg.pairs for arg in file.global_args] == [(("A", "1"), ("B", None)), (("C", None),)]
    assert [(s.index, s.origin) for s in file.stages] == [
        (0, From("img:$A", "build-1", "$P")),
        (1, From("build-1")),
        (2, From("scratch", "z.y_x")),
    ]
    assert [len(s.instructions) for s in file.stages] == [1, 0, 0]


def test_text_and_location_span_continuations_and_heredocs() -> None:
    file = of("FROM scratch\n\n  RUN a && \\\n # comment\n   b  \nCOPY <<A \\\n <<B /\n1\nA\nB\nUSER x\n")
    run, copy, user = file.stages[0].instructions
    assert (run.text, run.location) == ("RUN a &&    b", Location(3, 5))
    assert (copy.text, copy.location) == ("COPY <<A  <<B /", Location(6, 10))
    assert (user.text, user.location) == ("USER x", Location(11, 11))


@pytest.mark.rule("T5")
@pytest.mark.parametrize(
    ("lines", "command"),
    [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \t\nb", "a b"),
        ("RUN a\\\\\nRUN b", "a\\\\"),
        ("RUN a \\\n# c\n  # d\n b", "a  b"),
        ("RUN a # no comment", "a # no comment"),
        ("\\\nRUN a", "a"),
        ("RUN a \\", "a"),
        ("RUN a \\\n\\\nb", "a b"),
        ("\tRUN\ta", "a"),
        ("R\\\nUN a", "a"),
    ],
)
def test_continuations(lines: str, command: str) -> None:
    first = of(f"FROM scratch\n{lines}").stages[0].instructions[0]
    assert first == Run(shell(command))


def test_blank_lines_in_a_continuation_are_skipped_with_a_warning() -> None:
    file = of("FROM scratch\nRUN a \\\n\n \t\n b\nRUN c \\\n# comment\n d\n")
    assert [str(i.text) for i in file.stages[0].instructions] == ["RUN a  b", "RUN c  d"]
    assert [(w.rule, w.message, w.location) for w in file.warnings] == [
        ("NoEmptyContinuation", "Empty continuation line", Location(5, 5))
    ]


@pytest.mark.rule("T5")
def test_a_file_that_ends_in_a_continuation() -> None:
    file = of("FROM scratch\nRUN a \\\n\n\n")
    (run,) = file.stages[0].instructions
    assert (run, run.location) == (Run(shell("a")), Location(2, 4))
    assert len(file.warnings) == 1


@pytest.mark.rule("T5")
def test_byte_order_mark_and_windows_line_ends() -> None:
    file = parse(b"\xef\xbb\xbfFROM scratch\r\nRUN a \\\r\n  b\r\n\r\nENV x=y\r\n")
    assert file.stages[0].instructions == (Run(shell("a   b")), Env((("x", "y"),)))
    assert file.text.startswith("FROM")


def test_blanks_that_only_unicode_knows_around_an_instruction() -> None:
    assert of("FROM scratch\n\u00a0RUN a\u3000\n").stages[0].instructions == (Run(shell("a")),)


def test_bytes_that_are_not_utf8_become_replacement_characters_but_in_heredocs() -> None:
    file = parse(b"FROM scratch\nENV a=\xff\n# \xfe\nCOPY <<E /f\n\xff\nE\n")
    env, copy = file.stages[0].instructions
    assert env == Env((("a", "\ufffd"),))
    assert isinstance(copy, Copy)
    assert copy.heredocs[0].content.encode("utf-8", "surrogateescape") == b"\xff\n"


def test_lines_are_separated_by_newlines_only() -> None:
    file = of("FROM scratch\nRUN a\x0bb\u2028c\n")
    assert file.stages[0].instructions == (Run(shell("a\x0bb\u2028c")),)


class TestDirectives:
    def test_escape_changes_continuations_and_words(self) -> None:
        file = of("# escape=`\nFROM scratch\nRUN a `\n b\\\nENV x=C:\\ y=a` b\n")
        run, env = file.stages[0].instructions
        assert (file.escape, run, env) == ("`", Run(shell("a  b\\")), Env((("x", "C:\\"), ("y", "a` b"))))

    def test_names_have_no_case_and_blanks_do_not_matter(self) -> None:
        file = of("#syntax=docker/dockerfile:1\n  #  ESCAPE = `  \n# Check=skip=A;error=true\nFROM scratch\n")
        assert file.directives == {"syntax": "docker/dockerfile:1", "escape": "`", "check": "skip=A;error=true"}

    @pytest.mark.parametrize("before", ["# comment", "", "FROM x", "# unknown=1", "#!/bin/x", "# escape"])
    def test_the_zone_ends_at_the_first_other_line(self, before: str) -> None:
        file = of(f"{before}\n# escape=`\nFROM scratch\nRUN a \\\n b\n")
        assert (file.escape, file.directives) == ("\\", {})
        assert file.stages[-1].instructions == (Run(shell("a  b")),)

    @pytest.mark.parametrize(
        ("text", "message", "line"),
        [
            ("# escape=`\n# escape=\\\n", "only one escape parser directive can be used", 2),
            ("# syntax=a\n#SYNTAX=b\n", "only one syntax parser directive can be used", 2),
            ("# escape=x\n", "invalid escape token 'x' does not match ` or \\", 1),
            ("# check=skip\n", 'invalid check option "skip"', 1),
            ("# check=foo=1\n", 'invalid check option "foo"', 1),
            ("# check=error=maybe\n", 'failed to parse check option "error=maybe": invalid syntax', 1),
        ],
    )
    def test_wrong_ones(self, text: str, message: str, line: int) -> None:
        with pytest.raises(DockerfileError) as caught:
            of(text + "FROM scratch\n")
        assert (caught.value.message, caught.value.location) == (message, Location(line, line))


class TestTriggers:
    def test_a_trigger_of_an_image(self) -> None:
        assert parse_trigger("COPY --from=x a b") == Copy(("a",), "b", from_="x")
        assert parse_trigger("RUN a \\\n b") == Run(shell("a  b"))

    def test_a_trigger_with_a_heredoc_round_trips(self) -> None:
        onbuild = one("ONBUILD COPY <<-E <<F /d/\n\t1\n\tE\n2\nF")
        assert onbuild == Onbuild("COPY <<-E <<F /d/\n\t1\nE\n2\nF")
        assert parse_trigger("COPY <<-E <<F /d/\n\t1\nE\n2\nF") == Copy(
            (), "/d/", (Heredoc("E", "1\n", strip_tabs=True), Heredoc("F", "2\n"))
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("FROM x", "FROM isn't allowed as an ONBUILD trigger"),
            ("maintainer x", "MAINTAINER isn't allowed as an ONBUILD trigger"),
            ("ONBUILD RUN x", "ONBUILD isn't allowed as an ONBUILD trigger"),
            ("RUN a\nRUN b", "onbuild trigger should be a single expression"),
            ("", "file with no instructions"),
            ("RNU x", "unknown instruction: RNU (did you mean RUN?)"),
        ],
    )
    def test_what_is_none(self, text: str, message: str) -> None:
        with pytest.raises(DockerfileError) as caught:
            parse_trigger(text)
        assert caught.value.message == message

    def test_the_escape_of_the_file_holds_in_its_triggers(self) -> None:
        assert parse_trigger("ENV a=b` c", "`") == Env((("a", "b` c"),))
