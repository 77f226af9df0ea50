"""WORKDIR: the directory is made if it is not there."""

from __future__ import annotations

from collections.abc import Mapping

from engine.layer.accounts import lookup_owner
from engine.layer.base import Layer
from engine.layer.changes import Changes
from engine.plan.base import Step, WorkdirOp
from engine.solve.copying.plan import plan_workdir
from engine.solve.mechanisms import Job
from engine.solve.state import State
from engine.solve.steps.pack import make_layer


async def workdir(job: Job, step: Step, op: WorkdirOp, states: Mapping[str, State]) -> Layer:
    """The layer with the directories that had to be made, which may be none: BuildKit has an empty layer then, too."""
    tree = await job.mechanisms.trees.tree(states[step.parent].chain)
    owner = lookup_owner(op.user, tree) if op.user else (0, 0)
    changes = plan_workdir(op.path.encode(), owner, tree, job.made_mtime)
    layer, _ = await make_layer(job, Changes.of(changes), own_files=True)
    return layer
