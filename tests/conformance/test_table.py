"""Every rule has a test or a reason, and the table in docs/conformance.md is that of the tests there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .table import HERE, PATHS, Tally, known_rules

ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The table as it is when every test passes."""
    written: Path = tmp_path_factory.mktemp("table") / "conformance.md"
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "tests.conformance.table", "-p", "no:cacheprovider",
               f"--write-conformance={written}", *PATHS]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return written.read_text()


def test_the_table_is_up_to_date(collected: str) -> None:
    text = (ROOT / "docs/conformance.md").read_text()
    assert text == collected, "run scripts/conformance-table"


def test_every_rule_has_a_test_or_a_reason(collected: str) -> None:
    known = known_rules()
    assert sorted(r for rules in known["areas"].values() for r in rules) == sorted(known["rules"])
    assert [r for r in known["rules"] if r.isdecimal()] == [str(n) for n in range(1, 125)]
    bare = re.findall(r"^\| (\w+) \| [^|]* \| 0 \| 0 \|$", collected, re.M)
    assert [r for r in bare if r not in known["uncovered"]] == []


def test_the_cases_of_the_corpus_are_all_there_and_name_rules_that_are() -> None:
    known = known_rules()
    assert sorted(known["corpus"]) == sorted(p.name for p in (HERE / "cases").iterdir())
    assert {str(r) for rules in known["corpus"].values() for r in rules} <= known["rules"].keys()


def test_what_fails_is_not_counted() -> None:
    tally = Tally()
    tally.case("a", "m", ["1"], "failed")
    tally.case("b", "m", ["2"], "passed")
    known = {"areas": {"all": ["1", "2", "3"]}, "rules": {"1": "one", "2": "two", "3": "three"}, "uncovered": {"3": "because"}}
    assert tally.uncovered(known) == ["1"]
    text = "\n".join(tally.lines(known))
    assert "| m | 1 | 2 |" in text
    assert "- 3, three: because" in text
