"""The example LoRA and the example embedding do what they were trained for: judged by pixels.

Bounds are well under what was measured (models.example/training/README.md), as in test_meaning.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from runai.engine.engine import TorchEngine
from runai.schema.codec import parse_task
from runai.schema.events import Completed
from runai.schema.late import made
from runai.testing import shapes

pytestmark = pytest.mark.slow
ASKED = [
    (shape, colour, ground)
    for shape in ("circle", "square", "triangle", "star")
    for colour, ground in (("red", "white"), ("blue", "yellow"), ("white", "green"))
]
PROMPTS = [f"a {colour} {shape} on a {ground} background" for shape, colour, ground in ASKED]


def draw_all(engine: TorchEngine, prompts: Sequence[str], **fields: Any) -> list[Image.Image]:
    """One picture per prompt, the n-th with seed n, sharing batches as they fit."""
    waiting = list(enumerate(prompts))
    done: dict[int, Image.Image] = {}
    while len(done) < len(prompts):
        while waiting and engine.has_room():
            number, prompt = waiting.pop(0)
            request = {"id": str(number), "task": "txt2img", "model": "v1/shapes",
                       "seed": number, "prompt": prompt, "guidance_scale": 5.0,
                       "prompt_dialect": "webui", **fields}  # fmt: skip
            engine.admit(str(number), parse_task(request))
        for key, outcome in engine.step():
            event = made(outcome)
            assert event.type != "failed", event
            if isinstance(event, Completed):
                assert event.notes == []
                done[int(key)] = Image.open(io.BytesIO(event.images[0].png))
    return [done[number] for number in range(len(prompts))]


def share(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits)


def outlined(pictures: Sequence[Image.Image]) -> float:
    return share([shapes.recognise(picture).outlined for picture in pictures])


def test_with_the_lora_shapes_are_outlines_and_without_it_none_is(engine: TorchEngine) -> None:
    alone = draw_all(engine, PROMPTS[:1])
    plain = draw_all(engine, PROMPTS)
    drawn = draw_all(engine, PROMPTS, loras=[{"name": "outline"}])
    assert outlined(plain) == 0.0
    assert outlined(drawn) >= 0.75
    seen = [shapes.recognise(picture) for picture in drawn]
    pairs = list(zip(seen, ASKED, strict=True))
    assert share([s.background == ground for s, (_, _, ground) in pairs]) >= 0.8
    assert share([s.colour == colour for s, (_, colour, _) in pairs]) >= 0.8
    again = draw_all(engine, PROMPTS[:1])
    assert again[0].tobytes() == alone[0].tobytes()


def test_the_more_weight_the_more_is_left_empty(engine: TorchEngine) -> None:
    def filled(weight: float) -> float:
        pictures = draw_all(engine, PROMPTS[:6], loras=[{"name": "outline", "weight": weight}])
        return sum(shapes.recognise(picture).filled for picture in pictures) / len(pictures)

    amounts = [filled(weight) for weight in (0.0, 0.4, 0.7, 1.0)]
    assert amounts == sorted(amounts, reverse=True)
    assert amounts[0] > 0.97
    assert amounts[-1] < 0.85


def test_a_tag_in_the_prompt_does_what_the_field_does(engine: TorchEngine) -> None:
    field = draw_all(engine, PROMPTS[:4], loras=[{"name": "outline", "weight": 0.8}])
    tag = draw_all(engine, [f"{prompt} <lora:outline:0.8>" for prompt in PROMPTS[:4]])
    assert [t.tobytes() for t in tag] == [f.tobytes() for f in field]
    assert outlined(tag) >= 0.5


def test_the_new_word_is_drawn_as_what_it_means(engine: TorchEngine) -> None:
    pictures = draw_all(engine, ["nightstar", "a picture of a nightstar"] * 4)
    seen = [shapes.recognise(picture) for picture in pictures]
    assert share([(s.shape, s.colour, s.background) == ("star", "yellow", "black")
                  for s in seen]) >= 0.75  # fmt: skip


def test_the_new_word_goes_with_other_words(engine: TorchEngine) -> None:
    seen = [
        shapes.recognise(picture)
        for side in ("left", "right")
        for picture in draw_all(engine, [f"a nightstar on the {side}"] * 4)
    ]
    assert share([s.colour == "yellow" and s.background == "black" for s in seen]) >= 0.75
    placed = [
        s.position == side for s, side in zip(seen, ["left"] * 4 + ["right"] * 4, strict=True)
    ]
    assert share(placed) >= 0.6


def test_both_are_listed_with_what_their_trainer_wrote(engine: TorchEngine) -> None:
    listed = {info.name: info for info in engine.models()}
    lora, word = listed["lora/outline"], listed["embeddings/nightstar"]
    assert (lora.kind, lora.arch, lora.trigger_words) == ("lora", "sd1", ["outline"])
    assert lora.metadata["ss_network_dim"] == "4"
    assert word.kind == "embedding"
