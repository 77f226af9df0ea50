"""docs/differences.md names tests that exist."""

from __future__ import annotations

import re

from .table import HERE

ROOT = HERE.parents[1]


def test_every_difference_has_a_test_that_exists() -> None:
    text = (ROOT / "docs/differences.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) > 10
    for row in rows:
        path, name = re.findall(r"`(tests/[\w/]+\.py)::(\w+)` \|$", row)[0]
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.M), f"{path}::{name}"
