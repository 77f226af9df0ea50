"""`aniko cache verify --rebuild`: steps are run again, and what is on record is compared with what they make now."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from engine import Engine, Settings
from engine.solve.rebuild import Rebuilt
from engine.wiring import Wiring

from .conftest import request, write_context

pytestmark = [pytest.mark.anyio, pytest.mark.system]

MOUNT = "--mount=type=cache,target=/c,id=c"


async def build(memory: Path, context: Path) -> int:
    async with Engine(Settings(memory / "state")) as engine:
        return (await engine.build(request(context, push=False))).ran


async def rebuild(memory: Path, context: Path) -> dict[str, Rebuilt]:
    """Runs all steps again; what became of them, by their texts."""
    async with Engine(Settings(memory / "state")) as engine:
        count, found = await engine.rebuild(request(context, push=False), range)
    assert count == len(found)
    return {each.step.partition("] ")[2]: each for each in found}


async def verify(memory: Path, *words: str, code: int = 0, stdin: bytes = b"") -> Any:
    line = [sys.executable, "-m", "engine.cli", "cache", "verify", "--state-dir", str(memory / "state"), *words]
    done = await anyio.run_process(line, check=False, input=stdin)
    assert done.returncode == code, done.stderr.decode()
    text = done.stdout.decode()
    return json.loads(text) if "--json" in words else text + done.stderr.decode()


def mounted(memory: Path) -> Path:
    """Where the cache mount lies."""
    return next((memory / "state/mounts").glob("*/0"))


async def test_steps_that_give_the_same_are_the_same_and_nothing_is_recorded(base: str, memory: Path) -> None:
    lines = ("COPY f /f\nRUN echo a > /a; ln /a /b; mkdir /d; rm -r /home\nWORKDIR /w\nADD t.tar /t/\nCOPY <<E /h\nhello\nE\n"
             "RUN <<E\necho script > /s\nE\n")  # fmt: skip
    last = f"FROM {base}\nCOPY --from=0 /a /a\nRUN --mount=from=0,target=/m cp /m/f /g\n"
    context = write_context(memory / "app", f"FROM {base}\n{lines}{last}", f="file\n")
    subprocess.run(["tar", "-cf", str(context / "t.tar"), "-C", str(context), "f"], check=True)
    await build(memory, context)
    records = (memory / "state/cache").glob("*.db")
    before = [path.read_bytes() for path in records]
    found = await rebuild(memory, context)
    assert {text: each.verdict for text, each in found.items()} == dict.fromkeys(found, "same")
    assert len(found) == 8
    assert [path.read_bytes() for path in (memory / "state/cache").glob("*.db")] == before
    assert await build(memory, context) == 0


async def test_what_varies_is_told_from_what_is_another_than_on_record(base: str, memory: Path) -> None:
    lines = (f"RUN head -c 9 /dev/urandom > /random; head -c 9 /dev/urandom > /date\nRUN {MOUNT} echo old >> /c/file; cp /c/file /file; echo a > /a\n"
             f"RUN {MOUNT} cp /c/file /steady; head -c 9 /dev/urandom > /date\nRUN {MOUNT} test ! -e /c/stop && echo went > /went\n")  # fmt: skip
    context = write_context(memory / "app", f"FROM {base}\n{lines}")
    await build(memory, context)
    (mounted(memory) / "stop").touch()
    found = await rebuild(memory, context)
    by_word = {text.split()[-1]: each for text, each in found.items()}
    assert {word: each.verdict for word, each in by_word.items()} == {
        "/date": "differs", "/a": "varies", "/went": "failed"}  # two steps end in /date: the later one counts
    varying = next(each for text, each in found.items() if "urandom" in text)
    assert (varying.verdict, set(varying.paths)) == ("varies", {b"random", b"date"})
    assert by_word["/a"].paths == {b"file": "has another content"}
    assert by_word["/date"].paths == {b"steady": "has another content"}, "the date varies, and is no matter"
    assert "exit code: 1" in by_word["/went"].problem
    assert [by_word[word].sound for word in ("/date", "/a", "/went")] == [False, True, False]


async def test_a_wrong_record_and_a_broken_layer_are_found(base: str, memory: Path) -> None:
    context = write_context(memory / "app", f"FROM {base}\nCOPY f /f\nCOPY g /g\nRUN echo r > /r\n", f="f\n", g="g\n")
    await build(memory, context)
    async with Wiring(Settings(memory / "state")) as wiring:
        copies = [await wiring.records.get(usage.key) for usage in wiring.records.usage() if usage.step.startswith("COPY")]
        one, other = {record.step: record for record in copies if record}.values()
        for record in copies:
            if record and record.step == one.step:
                await wiring.records.put(replace(record, layer=other.layer), replace=True)
        last = next(usage for usage in wiring.records.usage() if usage.step.startswith("RUN"))
        assert last.blob
        blob = wiring.content.path(last.blob)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    found = await rebuild(memory, context)
    assert found[one.step].verdict == "differs"
    assert set(found[one.step].paths.values()) == {"is not there any more", "is new"}
    assert found[other.step].verdict == "same"
    assert [each.verdict for text, each in found.items() if text.startswith("RUN")] in (["broken"], []), "or found at another key"


async def test_the_command_says_it_and_its_code_too(base: str, memory: Path) -> None:
    lines = f"COPY f /f\nARG A\nRUN {MOUNT} echo $A > /a; touch /c/x; cp /c/x /x\n"
    context = write_context(memory / "app", f"FROM {base}\n{lines}", f="f\n")
    flags = ["--build-arg", "A=1", str(context)]
    async with Engine(Settings(memory / "state")) as engine:
        await engine.build(request(context, push=False, build_args={"A": "1"}))
    said = await verify(memory, "--rebuild", "100%", "--json", "--", *flags)
    assert [each["verdict"] for each in said["rebuilt"]["steps"]] == ["same", "same"]
    assert said["findings"] == []
    (mounted(memory) / "x").write_text("changed\n")
    text = await verify(memory, "--rebuild", "2", "--", *flags, code=8)
    assert "differs from what is cached\n  /x has another content\n" in text
    assert "ran 2 of 2 cached steps again: 1 the same, 1 differs from what is cached\n" in text
    assert "ran 1 of 1 cached steps again: 1 the same" in await verify(memory, "--rebuild", "5", "--", str(context)), "without A"
    chosen = [await verify(memory, "--rebuild", "1", "--seed", seed, "--json", "--", *flags, code=code)
              for seed, code in (("1", 0), ("1", 0), ("0", 8))]  # fmt: skip
    assert chosen[0]["rebuilt"]["steps"] == chosen[1]["rebuilt"]["steps"] != chosen[2]["rebuilt"]["steps"]


@pytest.mark.parametrize(("words", "text"), [
    (["--rebuild", "2"], "--rebuild needs a build"), (["--rebuild", "x", "--", "."], "invalid number of steps"),
    (["--rebuild", "101%", "--", "."], "invalid number of steps"), (["--rebuild", "1", "--", "--bogus", "."], "unknown flag: --bogus"),
    (["."], "unexpected ."), (["--rebuild", "1", "--", "--state-dir", "/other", "."], "two state directories"),
    (["--rebuild", "1", "--", "--load", "."], "unsupported flag"),
])  # fmt: skip
async def test_mistakes_are_told(words: Sequence[str], text: str, memory: Path) -> None:
    os.mkdir(memory / "state")
    assert text in await verify(memory, *words, code=2)
