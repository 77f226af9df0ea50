"""Here-documents: which words open one, what their bodies are (rules 28 to 32, 83)."""

from __future__ import annotations

import pytest

from engine.dockerfile.heredoc import is_heredoc_word, marker, markers
from engine.dockerfile.instructions import Copy, Heredoc, Onbuild, Run
from engine.dockerfile.parser import parse
from engine.errors import DockerfileError


def heredocs(lines: str) -> tuple[Heredoc, ...]:
    instruction = parse(f"FROM scratch\n{lines}\n".encode()).stages[0].instructions[0]
    assert isinstance(instruction, Run | Copy)
    return instruction.heredocs


@pytest.mark.rule(29, 32, 83)
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("RUN ls", ()),
        ("RUN <<EMPTY\nEMPTY", (Heredoc("EMPTY", ""),)),
        ("RUN 3<<EMPTY2\nEMPTY2", (Heredoc("EMPTY2", "", fd=3),)),
        ('RUN "<<NOHEREDOC"', ()),
        ("RUN <<INDENT\n\tfoo\n\tbar\nINDENT", (Heredoc("INDENT", "\tfoo\n\tbar\n"),)),
        ("RUN <<-UN\n\tbaz\n\t\tquux\n\tUN", (Heredoc("UN", "baz\nquux\n", strip_tabs=True),)),
        ("RUN <<-'NO'\n\tdon't $NAME\nNO", (Heredoc("NO", "don't $NAME\n", expand=False, strip_tabs=True),)),
        ("RUN <<C\n# internal comment\necho \\\n\nC", (Heredoc("C", "# internal comment\necho \\\n\n"),)),
        ("RUN --mount=type=cache,target=/foo <<M\necho hello\nM", (Heredoc("M", "echo hello\n"),)),
        ("COPY <<F1 <<F2 /dest\n1\nF1\n2\nF2", (Heredoc("F1", "1\n"), Heredoc("F2", "2\n"))),
        ("COPY <<X <<Y /dest\nY\nX\nX\nY", (Heredoc("X", "Y\n"), Heredoc("Y", "X\n"))),
        ("RUN <<COMPLEX python3\nprint('x')\nCOMPLEX", (Heredoc("COMPLEX", "print('x')\n"),)),
        ("COPY <<file.txt /dest\nhello\nfile.txt", (Heredoc("file.txt", "hello\n"),)),
        ("RUN <<eo'f'\necho foo\neof", (Heredoc("eof", "echo foo\n", expand=False),)),
        ("RUN <<eo\\'f\necho foo\neo'f", (Heredoc("eo'f", "echo foo\n"),)),
        ("RUN <<'e'o\\'f\necho foo\neo'f", (Heredoc("eo'f", "echo foo\n", expand=False),)),
        ("RUN <<'one two'\necho bar\none two", (Heredoc("one two", "echo bar\n", expand=False),)),
        ("RUN <<$EOF\n$EOF", (Heredoc("$EOF", ""),)),
        ("RUN <<  EOF  > foo\nEOF", (Heredoc("EOF", ""),)),
        ("RUN cat <<A 3<<B \\\n <<C\n1\nA\n2\nB\n3\nC", (Heredoc("A", "1\n"), Heredoc("B", "2\n", fd=3), Heredoc("C", "3\n"))),
        ('RUN ["<<EOF"]', ()),
        ("RUN cat<<EOF", ()),
        ("RUN echo $((1<<3)) 'a <<B c' \"<<D\" \\<<E", ()),
        ("RUN echo 'open <<EOF", ()),
        ("RUN a <\\\n<E\nbody\nE", (Heredoc("E", "body\n"),)),
        ("RUN <<E\r\na\r\nE\r", (Heredoc("E", "a\r\n"),)),
        ("ADD <<E /x\nEE\nE", (Heredoc("E", "EE\n"),)),
        ("RUN <<'#E'\nx \\\n#E", (Heredoc("#E", "x \\\n", expand=False),)),
    ],
)
def test_heredocs_of_instructions(lines: str, expected: tuple[Heredoc, ...]) -> None:
    assert heredocs(lines) == expected


def test_only_some_instructions_have_them() -> None:
    file = parse(b'FROM scratch\nLABEL l="<<EOF"\nENV A=x B=<<EOF\nUSER <<E\nCMD <<E\nHEALTHCHECK CMD <<E\n')
    assert len(file.stages[0].instructions) == 5


def test_onbuild_keeps_the_raw_body() -> None:
    (onbuild,) = parse(b"FROM scratch\nONBUILD RUN <<-E\n\tx $y\n\tE\n").stages[0].instructions
    assert onbuild == Onbuild("RUN <<-E\n\tx $y\nE")


def test_sources_that_are_paths_stay_apart() -> None:
    (copy,) = parse(b"FROM scratch\nCOPY a <<E b <<F /d/\n1\nE\n2\nF\n").stages[0].instructions
    assert copy == Copy(("a", "b"), "/d/", (Heredoc("E", "1\n"), Heredoc("F", "2\n")))


def test_two_of_one_name_give_the_last_body_twice() -> None:
    (copy,) = parse(b"FROM scratch\nCOPY <<E <<E /d/\n1\nE\n2\nE\n").stages[0].instructions
    assert isinstance(copy, Copy)
    assert [h.content for h in copy.heredocs] == ["2\n", "2\n"]


@pytest.mark.parametrize("word", ["<<EOF", "<<'EOF'", '<<"EOF"', "<<-EOF", "<<-'EOF'", '<<EO"F"', "<< EOF", "<<- EOF"])
def test_words_that_open_one(word: str) -> None:
    found = marker(word)
    assert found is not None and found.name == "EOF"
    assert is_heredoc_word(f" {word} ")


@pytest.mark.parametrize("word", ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF"])
def test_words_that_do_not(word: str) -> None:
    assert marker(word) is None
    assert not is_heredoc_word(word)


@pytest.mark.parametrize("word", ["<<'EOF", '<<"EOF', "<<EOF'"])
def test_open_quotes_in_the_name(word: str) -> None:
    with pytest.raises(DockerfileError, match="matching"):
        marker(word)
    assert not is_heredoc_word(word)


def test_a_line_only_a_shell_understands_opens_none() -> None:
    assert markers("RUN echo ${x//a} <<EOF") == []


def test_unterminated_says_all_lines() -> None:
    with pytest.raises(DockerfileError, match="unterminated heredoc") as caught:
        parse(b"FROM scratch\nRUN <<A <<B\nA\nx\n")
    assert caught.value.location is not None
    assert (caught.value.location.first, caught.value.location.last) == (2, 4)
