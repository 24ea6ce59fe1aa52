"""A message with a `type` is native, and is answered in the same words."""

from __future__ import annotations

import pytest

from runai.errors import UnknownAction
from runai.schema import codec
from runai.schema.dialects import reply_to, understand
from runai.schema.events import Accepted, Canceled, Progress
from runai.schema.requests import Cancel, TextToImage
from tests.schema.asked import generate, plugin


def test_a_native_message_is_its_command_and_hears_every_event() -> None:
    spoken = understand(generate())
    assert spoken.command == TextToImage(id="a")
    for event in (
        Accepted(id="a", position=0),
        Progress(id="a", step=1, total=2),
        Canceled(id="a"),
    ):
        assert [codec.parse_event(codec.decode(b)) for b in spoken.reply.render(event)] == [event]


def test_an_action_beside_a_type_is_not_the_plugins() -> None:
    assert understand({"type": "cancel", "id": "a"}).command == Cancel(id="a")
    with pytest.raises(UnknownAction):
        understand({**plugin(), "type": "txt2img"})


def test_a_broken_native_message_is_answered_natively() -> None:
    event = Progress(id="a", step=1, total=2)
    assert reply_to({"type": None}).render(event) == [codec.encode(event)]
