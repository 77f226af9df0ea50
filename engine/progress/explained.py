"""What the cache had to say about a step, as lines for people."""

from __future__ import annotations

from engine.progress import units
from engine.progress.events import StepExplained
from engine.progress.lines import clean


def lines(event: StepExplained) -> list[str]:
    """`hit in the local cache …` or `miss: …`, then one line for each reason if there are several."""
    key = event.key[:19]
    if event.tier:
        return [f"hit in the {event.tier} cache: {key}, made {units.age(event.age)} ago"]
    reasons = [clean(reason, colour=False) for reason in event.reasons]
    if len(reasons) <= 1:
        return [f"miss of {key}: {''.join(reasons)}"]
    return [f"miss of {key}:", *(f"  {reason}" for reason in reasons)]
