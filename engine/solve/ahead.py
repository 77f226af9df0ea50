"""What is done ahead, beside the steps: what a RUN will need is made ready as soon as that is known (worker processes while images
are resolved, base images while other steps begin), and finished layers are sent on their way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from anyio.abc import TaskGroup

from engine.dockerfile.instructions import Copy, Dockerfile, Run
from engine.errors import EngineError
from engine.image.descriptor import Descriptor
from engine.layer.base import Chain, Layer
from engine.output.base import EagerOutput, Output
from engine.plan.base import CopyOp, ImageSource, Plan, RunOp, Step
from engine.solve.departure import Departure
from engine.solve.mechanisms import Job

if TYPE_CHECKING:
    from engine.solve.steps.pack import Depart

T = TypeVar("T")

_WORKED = ((Run, "RUN"), (Copy, "COPY"))


def warm_up(job: Job, dockerfile: Dockerfile, background: TaskGroup) -> None:
    """Starts the worker processes, if there is a RUN or COPY that will hardly be found."""
    kinds = {type(each) for stage in dockerfile.stages for each in stage.instructions}
    new = {kind for kind, name in _WORKED if kind in kinds and not job.cache.may_have(name)}
    if new or (job.no_cache and kinds & {kind for kind, _ in _WORKED}):
        background.start_soon(_start_workers, job)


async def _start_workers(job: Job) -> None:
    with suppress(EngineError):  # the RUN will meet it again
        await job.mechanisms.workers.environment()


def _looks_below(op: CopyOp) -> bool:
    return not op.link or bool(op.chmod or op.chown)


class Sender:
    """Sends layers of the image on their way: large ones while they are packed, others while later steps run. What fails is not
    told: the output tries again, and tells."""

    def __init__(self, outputs: Sequence[Output], background: TaskGroup) -> None:
        self._outputs = [output for output in outputs if isinstance(output, EagerOutput)]
        self._background = background
        self._departures: list[Departure] = []

    @property
    def depart(self) -> Depart | None:
        """Whom to tell of a layer of the image that is about to be packed; None when it need not be told."""
        return self._depart if self._outputs else None

    def send(self, layer: Layer) -> None:
        """A layer has been made."""
        if all(departure.blob != layer.blob for departure in self._departures):
            for output in self._outputs:
                self._background.start_soon(self._try, output.ahead, layer)

    def _depart(self, departure: Departure) -> None:
        self._departures.append(departure)
        for output in self._outputs:
            self._background.start_soon(self._try, output.along, departure)

    @staticmethod
    async def _try(send: Callable[[T], Awaitable[None]], what: T) -> None:
        with suppress(EngineError):
            await send(what)


class Bases:
    """The base images of a plan. Told which steps were not found and which images are resolved; both may come first."""

    def __init__(self, plan: Plan, job: Job, background: TaskGroup) -> None:
        self._job, self._background = job, background
        self._steps = plan.steps
        self._parents = {step.id: step.parent for step in plan.steps}
        self._wanted: set[str] = set()
        self._chains: dict[str, tuple[ImageSource, Chain]] = {}

    def missed(self, step: Step) -> None:
        """The step was not found by its definition, so it will most likely run."""
        base = self._base(step)
        if isinstance(step.op, RunOp) and base not in self._wanted:
            self._wanted.add(base)
            self._start(base)

    def resolved(self, image: ImageSource, chain: Chain) -> None:
        """What an image consists of."""
        self._chains[image.id] = image, chain
        hopeless = [step.op for step in self._steps if self._base(step) == image.id and self._is_hopeless(step)]
        if any(isinstance(op, RunOp) for op in hopeless):
            self._wanted.add(image.id)
        elif image.id not in self._wanted and any(not isinstance(op, CopyOp) or _looks_below(op) for op in hopeless):
            self._background.start_soon(self._index, chain)
        self._start(image.id)

    def _base(self, step: Step) -> str:
        at = step.id
        while at in self._parents:
            at = self._parents[at]
        return at

    def _is_hopeless(self, step: Step) -> bool:
        """Whether the step will not be found, as far as one can tell without its key."""
        return step.no_cache or not self._job.cache.may_have(step.text.partition(" ")[0])

    async def _index(self, chain: Chain) -> None:
        with suppress(EngineError):
            for layer in chain:
                await self._job.mechanisms.trees.index(layer)

    def _start(self, id: str) -> None:
        if id in self._wanted and id in self._chains:
            self._background.start_soon(self._fetch, *self._chains[id])

    async def _fetch(self, image: ImageSource, chain: Chain) -> None:
        from engine.solve.steps.unpack import prefetch

        report, told = self._job.report, False
        name = f"[internal] fetch {image.reference}"

        def progress(blob: Descriptor, done: int) -> None:
            nonlocal told
            if not told:
                told = True
                report.step(name, name)
            report.progress(name, str(blob.digest), done, blob.size)

        try:
            await prefetch(self._job, chain, progress)
        except BaseException:
            if told:
                report.finished(name, "canceled")
            raise
        if told:
            report.finished(name, "done")
