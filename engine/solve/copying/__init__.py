"""The pure planner of COPY, ADD and WORKDIR: file trees in, the entries of a layer out."""

from engine.solve.copying.copies import Copies
from engine.solve.copying.digest import Dependence
from engine.solve.copying.draft import EmptyTree
from engine.solve.copying.modes import Mode, parse_mode
from engine.solve.copying.plan import CopyPlan, plan_archive, plan_copy, plan_files, plan_workdir
from engine.solve.copying.request import Copied, CopyRequest
from engine.solve.copying.sources import Source, find_sources

__all__ = [
    "Copied", "Copies", "CopyPlan", "CopyRequest", "Dependence", "EmptyTree", "Mode", "Source", "find_sources", "parse_mode",
    "plan_archive", "plan_copy", "plan_files", "plan_workdir",
]  # fmt: skip
