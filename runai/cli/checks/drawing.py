"""One small picture with the example model, by the engine that the settings make."""

from __future__ import annotations

import dataclasses
import io
import time
from collections.abc import Iterator

from PIL import Image

from runai.cli import wiring
from runai.cli.checks import Finding
from runai.errors import RunAIError
from runai.jobs.engine import Engine
from runai.schema.events import Completed, Failed
from runai.schema.late import made
from runai.schema.requests import TextToImage
from runai.settings import Settings

REQUEST = TextToImage(id="doctor", prompt="a red circle", num_inference_steps=8, seed=1)


def picture(settings: Settings) -> Iterator[Finding]:
    began = time.monotonic()
    # no models of the user's: they may be large, and are not what is asked here
    engine = wiring.torch_engine(dataclasses.replace(settings, model_base_path=()))
    try:
        done = _drawn(engine)
    finally:
        engine.close()
    width, height = done.parameters.width, done.parameters.height
    if _is_flat(done.images[0].png):
        raise RunAIError("The picture is of one colour.", hint="Start with --dtype fp32.")
    took = time.monotonic() - began
    yield Finding("ok", f"{width} × {height} pixels with {done.parameters.model} in {took:.1f} s")


def _drawn(engine: Engine) -> Completed:
    engine.admit(REQUEST.id, REQUEST)
    while engine.is_busy():
        for _, outcome in engine.step():
            event = made(outcome)
            if isinstance(event, Completed):
                return event
            if isinstance(event, Failed):
                raise event.error.to_exception()
    raise RunAIError("The engine ended without a picture.")


def _is_flat(png: bytes) -> bool:
    with Image.open(io.BytesIO(png)) as image:
        colours = image.convert("RGB").getcolors(maxcolors=1)
    return colours is not None
