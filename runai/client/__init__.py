"""The client library: typed events from a server, blocking, light to import (no torch).

    with Client() as client:
        for event in client.generate(TextToImage(id="1", prompt="a red circle")):
            ...

`client.Client` is the facade and connects again when it has to; `link.Link` is one connection
with its two threads; `answers.Answers` is what one request comes to. Knows the wire and the
schema, nothing of jobs and engines.
"""

from runai.client.answers import Answers
from runai.client.client import Client

__all__ = ["Answers", "Client"]
