"""Progress for programs: one JSON object for each event, one line for each object (described in docs/cli.md)."""

from __future__ import annotations

import codecs
import re
from typing import Any, TextIO

from engine import codec
from engine.progress.events import Event, StepFinished, StepOutput

_WORD = re.compile(r"(?<!^)(?=[A-Z])")


class JsonRenderer:
    """Writes objects to `stream`. A step's output is text: a character that is not whole yet waits for the rest of it."""

    shows_output = True

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decoders: dict[tuple[str, int], codecs.IncrementalDecoder] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, StepOutput):
            self._output(event, event.data)
            return
        if isinstance(event, StepFinished):
            for stream in (1, 2):
                if (event.step, stream) in self._decoders:
                    self._output(StepOutput(event.time, event.step, stream, b""), b"", final=True)
        fields = {name: getattr(event, name) for name in event.__struct_fields__}
        self.write(name_of(type(event)), fields | {"time": round(event.time, 6)})

    def tick(self) -> None:
        """Programs have their own clocks."""

    def close(self) -> None:
        """Every line is written as it comes."""

    def write(self, name: str, fields: dict[str, Any]) -> None:
        """Writes one line: an object with `event` and the fields."""
        value = {"event": name} | fields
        try:
            line = codec.encode(value)
        except TypeError:  # a path that is not UTF-8, as the operating system's surrogates
            line = codec.encode({k: v.encode(errors="replace").decode() if isinstance(v, str) else v for k, v in value.items()})
        self._stream.write(line.decode() + "\n")
        self._stream.flush()

    def _output(self, event: StepOutput, data: bytes, *, final: bool = False) -> None:
        decoder = self._decoders.get((event.step, event.stream))
        if decoder is None:
            decoder = self._decoders[event.step, event.stream] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data, final=final)
        if final:
            del self._decoders[event.step, event.stream]
        if text:
            self.write(name_of(StepOutput), {"time": round(event.time, 6), "step": event.step, "stream": event.stream,
                                             "text": text})


def name_of(kind: type[Event]) -> str:
    """`StepStarted` is called `step_started`."""
    return _WORD.sub("_", kind.__name__).lower()
