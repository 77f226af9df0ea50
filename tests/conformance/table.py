"""A pytest plugin that counts which rules of the Dockerfile the tests hold, and writes docs/conformance.md.

    pytest -p tests.conformance.table --write-conformance docs/conformance.md PATHS      (scripts/conformance-table does)

A test says with `@pytest.mark.rule(59, 60)` which rules it is about, a case of the corpus in rules.json. With `--collect-only` the
same is written without running anything, all tests counting as passed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PATHS = ("tests/unit/dockerfile", "tests/unit/plan", "tests/unit/copying", "tests/conformance")
"""Where tests with rules are."""

INTRODUCTION = """\
# Conformance

Does the image come out as BuildKit makes it? Two sorts of tests answer, and `scripts/conformance-table` writes this page from a
run of both:

- **cases** of the corpus: a Dockerfile and its context, and what BuildKit made of it, entry by entry (tests/conformance/README.md);
- **tests** of our own, with the expected result reasoned from a rule (tests/conformance/rules, and units of parser and planner).

A rule is a behaviour in which builders have differed. The numbers are those of the marker `rule` in the tests; B1 and on are what
BuildKit does without saying so. [differences.md](differences.md) lists where we knowingly do otherwise.
"""


@dataclass
class Tally:
    """What was counted. Keys of `cases` and `tests` are rules, those of `modes` ways of isolating and of taking snapshots."""

    cases: dict[str, set[str]] = field(default_factory=dict)
    tests: dict[str, set[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    modes: dict[str, Counter[str]] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)

    def case(self, name: str, mode: str, rules: list[str], outcome: str) -> None:
        """A case of the corpus in one mode."""
        self.modes.setdefault(mode, Counter())[outcome] += 1
        for rule in rules if outcome == "passed" else ():
            self.cases.setdefault(rule, set()).add(name)

    def impossible(self, name: str, mode: str, reason: str) -> None:
        """A case that cannot hold in a mode, and of which a test shows that it does not."""
        self.modes.setdefault(mode, Counter())["impossible"] += 1
        self.reasons[name, mode] = reason

    def test(self, name: str, rules: list[str], outcome: str) -> None:
        """A test, or one set of the parameters of a test, all of which have to pass."""
        if outcome != "passed":
            self.failed.add(name)
        for rule in rules:
            self.tests.setdefault(rule, set()).add(name)

    def count(self, rule: str) -> int:
        """How many tests of a rule passed."""
        return len(self.tests.get(rule, set()) - self.failed)

    def lines(self, known: Mapping[str, Any]) -> list[str]:
        """The page."""
        out = [INTRODUCTION, "## The corpus", ""]
        out += ["| isolation and snapshots | cases passed | of |", "|---|---|---|"]
        out += [f"| {mode} | {count['passed']} | {count.total()} |" for mode, count in sorted(self.modes.items())]
        if self.reasons:
            out += ["", "Cases that cannot hold in a mode, which is tested too:", ""]
            out += [f"- {name} ({mode}): {reason}" for (name, mode), reason in sorted(self.reasons.items())]
        out += ["", "## Area by area", "", "| area | rules | covered | cases of the corpus | tests |", "|---|---|---|---|---|"]
        details: list[str] = []
        for area, rules in known["areas"].items():
            covered = [r for r in rules if self.cases.get(r) or self.count(r)]
            cases = set().union(*(self.cases.get(r, set()) for r in rules))
            tests = set().union(*(self.tests.get(r, set()) for r in rules)) - self.failed
            out.append(f"| {area} | {len(rules)} | {len(covered)} | {len(cases)} | {len(tests)} |")
            details += ["", f"### {area}", "", "| rule | | cases | tests |", "|---|---|---|---|"]
            details += [f"| {r} | {known['rules'][r]} | {len(self.cases.get(r, ()))} | {self.count(r)} |" for r in rules]
        missing = {r: why for r, why in known["uncovered"].items() if not self.cases.get(r) and not self.count(r)}
        out += ["", "Rules without a test:" if missing else "Every rule has a case or a test."]
        out += [f"- {r}, {known['rules'][r]}: {why}" for r, why in missing.items()]
        return [*out, "", "## Rule by rule", *details]

    def uncovered(self, known: Mapping[str, Any]) -> list[str]:
        """The rules that have neither a passing test nor a reason."""
        return [r for r in known["rules"] if not self.cases.get(r) and not self.count(r) and r not in known["uncovered"]]


def known_rules() -> dict[str, Any]:
    """Areas, titles, reasons, and which case is about which rules."""
    return dict(json.loads((HERE / "rules.json").read_text()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-conformance", metavar="FILE", help="write the table of rules and tests to a file")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--write-conformance") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(config), "conformance-writer")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notes on each test what it is about, so that its report says so in whichever process it is read."""
    corpus = known_rules()["corpus"]
    for item in items:
        # What a test says of all its parameters counts once, what it says of some of them for each.
        whole = {id(mark) for mark in getattr(getattr(item, "function", None), "pytestmark", ())}
        for mark in item.iter_markers("rule"):
            name = item.nodeid.partition("[")[0] if id(mark) in whole else item.nodeid
            item.user_properties.append(("rules", [name, *map(str, mark.args)]))
        values = getattr(item, "callspec", None)
        if item.name.startswith("test_the_image_is_buildkits[") and values:
            name, mode = values.params["name"], values.params["mode"]
            reason = item.module.IMPOSSIBLE.get((mode, name)) if isinstance(item, pytest.Function) else None
            what = ("impossible", [name, mode, reason]) if reason else ("case", [name, mode, *map(str, corpus[name])])
            item.user_properties.append(what)


class _Writer:
    """Counts reports, or in a run that only collects the tests themselves."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._path = Path(str(config.getoption("--write-conformance")))
        self._tally = Tally()

    def _count(self, properties: Iterable[tuple[str, Any]], outcome: str) -> None:
        for kind, (name, *rules) in properties:
            if kind == "case":
                self._tally.case(name, rules[0], rules[1:], outcome)
            elif kind == "impossible":
                self._tally.impossible(name, rules[0], rules[1])
            elif kind == "rules":
                self._tally.test(name, rules, outcome)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if self._config.getoption("collectonly"):
            for item in session.items:
                self._count(item.user_properties, "passed")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or (report.when == "setup" and not report.passed):
            self._count(report.user_properties, report.outcome)

    def pytest_sessionfinish(self) -> None:
        self._path.write_text("\n".join(self._tally.lines(known_rules())) + "\n")
