"""What holds of the parser and of expansion whatever the text."""

from __future__ import annotations

import contextlib
import json

from hypothesis import example, given
from hypothesis import strategies as st

from engine.dockerfile.expand import expand, expand_heredoc, expand_words, expansion
from engine.dockerfile.instructions import Cmd, Command, Copy, Env, Heredoc, Instruction, Run
from engine.dockerfile.lint import lint
from engine.dockerfile.mounts import expand_mount, parse_mount
from engine.dockerfile.parser import parse, parse_trigger
from engine.errors import DockerfileError

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
SHELL_TEXT = st.text(st.sampled_from("ab1_$${}{}:-+?#%//*\\\\\"'`<|\n \t.ü"), max_size=40)
FRAGMENTS = st.sampled_from([
    "FROM scratch\n", "FROM a AS b\n", "RUN ", "COPY ", "--link ", "--from=b ", "a b ", "\\\n", "`\n", "\n", "# c\n", " ", "<<EOF ",
    "<<-'X Y' ", "EOF\n", "X Y\n", "\t", '["a", "b"]', "ENV a=b ", "x='", '"', "ARG ", "ONBUILD ", "HEALTHCHECK CMD ",
    "# escape=`\n", "\r\n", "\xa0", "\ufeff", "$x ", "${x:-y} ", "LABEL ", "USER ", "EXPOSE 80 ",
    "--", "-- ", "--mount=", "\\", "<", "WORKDIR ",
])  # fmt: skip


@given(st.lists(FRAGMENTS, max_size=25).map("".join))
@example("FROM scratch\nRUN <<E \\\n")
def test_any_dockerfile_gives_stages_or_an_error_with_its_place(text: str) -> None:
    lines = max(1, len(text.split("\n")))
    try:
        file = parse(text.encode())
    except DockerfileError as error:
        assert error.location is not None and error.source is not None
        assert 1 <= error.location.first <= error.location.last <= lines
        return
    last = 0
    for instruction in (*file.global_args, *(i for s in file.stages for i in (s.origin, *s.instructions))):
        assert last < instruction.location.first <= instruction.location.last <= lines
        last = instruction.location.last
    lint(file)


@given(st.binary(max_size=80))
def test_any_bytes_give_stages_or_an_error(data: bytes) -> None:
    try:
        parse(b"FROM scratch\n" + data)
    except DockerfileError as error:
        assert error.location is not None


@given(SHELL_TEXT, st.dictionaries(st.sampled_from("ab1_ü"), st.text(max_size=6)), st.sampled_from("\\`"))
def test_expansion_gives_a_text_or_an_error(text: str, variables: dict[str, str], escape: str) -> None:
    try:
        found = expansion(text, variables, escape=escape)
    except DockerfileError as error:
        assert error.message.startswith("failed to process ")
        return
    assert found.text == expand(text, variables, escape=escape)
    assert list(found.words) == expand_words(text, variables, escape=escape)
    assert found.used <= variables.keys() and not found.undefined & variables.keys()


@given(SHELL_TEXT)
def test_heredoc_bodies_expand_or_fail(text: str) -> None:
    with contextlib.suppress(DockerfileError):
        expand_heredoc(text, {})


@given(st.text(max_size=30))
def test_a_text_in_single_quotes_is_that_text(text: str) -> None:
    text = text.replace("'", "")
    assert expand(f"'{text}'", {}) == text
    assert expand_words(f"'{text}'", {}) == ([text] if text else [])


@given(st.text(max_size=30))
def test_a_text_with_every_character_escaped_is_that_text(text: str) -> None:
    assert expand("".join(f"\\{c}" for c in text), {}) == text
    assert expand("".join(f"`{c}" for c in text), {}, escape="`") == text


@given(NAMES, st.text(max_size=20))
def test_a_variable_is_its_value_and_never_more(name: str, value: str) -> None:
    assert expand(f'<${{{name}}}|"${name}">', {name: value}) == f"<{value}|{value}>"


@given(st.lists(WORDS, min_size=1, max_size=6), st.integers(0, 5))
def test_continuations_do_not_change_a_command(words: list[str], where: int) -> None:
    words = [f"x{word}".replace("\\", "").replace("<", "") for word in words]
    line = " ".join(words)
    broken = " ".join(words[:where]) + " \\\n# a comment\n" + " ".join(words[where:])
    assert instruction_of(f"RUN {line}") == Run(Command((line,), shell=True))
    joined = instruction_of(f"RUN {broken}")
    assert isinstance(joined, Run)
    assert joined.command.words[0].split() == words


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=10), max_size=5))
def test_the_json_form_gives_the_words_that_were_written(words: list[str]) -> None:
    assert instruction_of(f"CMD {json.dumps(words)}") == Cmd(Command(tuple(words), shell=False))


@given(st.lists(st.tuples(NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\r\n'\\")))), st.booleans())
def test_env_pairs_come_back(pairs: list[tuple[str, str]], quoted_keys: bool) -> None:
    if not pairs:
        return
    text = " ".join(f"{key}='{value}'" for key, value in pairs)
    env = instruction_of(f"ENV {text}")
    assert isinstance(env, Env)
    assert [(key, expand(value, {})) for key, value in env.pairs] == pairs


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=15), max_size=5), st.booleans())
def test_heredoc_bodies_come_back_byte_by_byte(lines: list[str], in_onbuild: bool) -> None:
    lines = [line for line in lines if line.rstrip("\r") != "EOF"]
    body = "".join(f"{line}\n" for line in lines)
    wanted = Copy((), "/f", (Heredoc("EOF", body, expand=False),))
    if in_onbuild:
        onbuild = instruction_of(f"ONBUILD COPY <<'EOF' /f\n{body}EOF")
        assert parse_trigger(onbuild.expression) == wanted  # type: ignore[union-attr]  # it is an Onbuild
    else:
        assert instruction_of(f"COPY <<'EOF' /f\n{body}EOF") == wanted


@given(st.text(st.sampled_from('abtype=target,"/$ {}0m'), max_size=30))
def test_any_mount_is_one_or_an_error(text: str) -> None:
    with contextlib.suppress(DockerfileError):
        parse_mount(expand_mount(text, lambda value: expand(value, {})))


def instruction_of(text: str) -> Instruction:
    (instruction,) = parse(f"FROM scratch\n{text}\n".encode()).stages[0].instructions
    return instruction
