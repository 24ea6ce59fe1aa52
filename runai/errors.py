"""Every error a user of RunAI can meet, as one tree with stable codes.

    RunAIError                      internal             a fault of ours
    ├── RequestError                invalid_request      the request is wrong
    │   ├── InvalidJSON             invalid_json         not a JSON object
    │   ├── InvalidField            invalid_field        a field's value is not allowed
    │   ├── UnknownAction           unknown_action       no such message or action
    │   ├── DuplicateId             duplicate_id         an id that is still in use
    │   ├── InvalidImage            invalid_image        an image that cannot be read
    │   └── NotOffered              not_offered          known, and refused on purpose
    ├── LimitError                  limit                past a bound that the server states
    │   ├── MessageTooLarge         message_too_large    the message has too many bytes
    │   ├── TooDeep                 too_deep             the message is nested too deeply
    │   ├── TooManyPixels           too_many_pixels      a picture is too large
    │   ├── TooManySteps            too_many_steps       too many denoising steps
    │   ├── TooManyImages           too_many_images      too many images in one request
    │   ├── QueueFull               queue_full           too many requests wait or are unread
    │   ├── TooManyConnections      too_many_connections no seat for one more client
    │   └── TooSlow                 too_slow             a message or a token was late
    ├── Unauthorized                unauthorized         no token, or a wrong one
    ├── ModelError                  model                something about a model on disk
    │   ├── ModelNotFound           model_not_found      no model of this name
    │   ├── ModelBroken             model_broken         present, but cannot be loaded
    │   ├── ModelUnsafe             model_unsafe         refused because loading could run code
    │   ├── ModelUnsupported        model_unsupported    an architecture or task it cannot do
    │   ├── VocabularyMissing       vocabulary_missing   no sound CLIP vocabulary on disk
    │   └── FilterMissing           filter_missing       the NSFW filter is asked for, but absent
    ├── EngineError                 engine               drawing failed
    │   ├── OutOfMemory             out_of_memory        the device or the machine is full
    │   ├── DeviceLost              device_lost          the device answers no more: the server ends
    │   ├── NotFinite               not_finite           the model produced NaN or infinity
    │   └── DependencyMissing       dependency_missing   an optional package is not installed
    ├── FetchError                  fetch                (get) something could not be fetched
    │   ├── FetchFailed             fetch_failed         not there, not allowed, or cut off
    │   └── NoSpace                 no_space             the disk has not enough room
    ├── WireError                   wire                 the byte stream is broken
    │   ├── Truncated               truncated            the peer left in the middle of a message
    │   └── TlsRequired             tls_required         plain bytes where TLS is spoken
    ├── ServerStopping              server_stopping      no new work is taken any more
    ├── SetupError                  setup                the server cannot start as asked
    │   ├── InvalidSetting          invalid_setting      a flag, variable or file is wrong
    │   └── AddressInUse            address_in_use       another program has the port
    └── ConnectionLost              connection_lost      (client) the connection broke
        ├── NoServer                no_server            (client) nothing listens there
        └── NotTrusted              not_trusted          (client) the server is not who it should be

An error is a code (never changes), a sentence that says what happened, and a hint that
says what to do; `field` names the request's field where one is to blame. Nothing here
imports anything: every other room of the house may use it.
"""

from __future__ import annotations

from typing import ClassVar


class RunAIError(Exception):
    """Base of all errors. `message`: what happened. `hint`: what to do. `field`: where."""

    code: ClassVar[str] = "internal"
    default_hint: ClassVar[str] = "Try again; if it stays, report it with the server's log."

    def __init__(self, message: str, *, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.field = field

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message} {self.hint} [{self.code}]"


class RequestError(RunAIError):
    code = "invalid_request"
    default_hint = "Correct the request; docs/protocol.md shows its form."


class InvalidJSON(RequestError):
    code = "invalid_json"
    default_hint = "Send one JSON object per message."


class InvalidField(RequestError):
    code = "invalid_field"
    default_hint = "Correct this field and send the request again."


class UnknownAction(RequestError):
    code = "unknown_action"
    default_hint = "Use one of the messages listed in docs/protocol.md."


class DuplicateId(RequestError):
    code = "duplicate_id"
    default_hint = "Choose an id that none of your unanswered requests has."


class InvalidImage(RequestError):
    code = "invalid_image"
    default_hint = "Send a PNG, JPEG or WebP picture, base64-encoded."


class NotOffered(RequestError):
    code = "not_offered"
    default_hint = "Leave this out."


class LimitError(RunAIError):
    code = "limit"
    default_hint = "Ask for less, or raise the server's limit."


class MessageTooLarge(LimitError):
    code = "message_too_large"
    default_hint = "Send smaller images, or start the server with a larger --max-message-bytes."


class TooDeep(LimitError):
    code = "too_deep"
    default_hint = "Nest less deeply, or start the server with a larger --max-json-depth."


class TooManyPixels(LimitError):
    code = "too_many_pixels"
    default_hint = "Ask for a smaller picture, or start the server with a larger --max-pixels."


class TooManySteps(LimitError):
    code = "too_many_steps"
    default_hint = "Ask for fewer steps, or start the server with a larger --max-steps."


class TooManyImages(LimitError):
    code = "too_many_images"
    default_hint = "Ask for fewer images a request, or start the server with a larger --max-images."


class QueueFull(LimitError):
    code = "queue_full"
    default_hint = (
        "Wait until earlier requests are answered and their answers are read, or start the server "
        "with a larger --max-queued or --max-queued-per-client."
    )


class TooManyConnections(LimitError):
    code = "too_many_connections"
    default_hint = (
        "Close another client, or raise --max-client-connections or --max-connections-per-peer."
    )


class TooSlow(LimitError):
    code = "too_slow"
    default_hint = (
        "Connect again, and send each message at once; --auth-timeout-s, --message-timeout-s and "
        "--idle-timeout-s of the server say how fast."
    )


class Unauthorized(RunAIError):
    code = "unauthorized"
    default_hint = (
        "Say hello first, with the server's token: --token-file or RUNAI_TOKEN for our commands."
    )


class ModelError(RunAIError):
    code = "model"
    default_hint = "Look at `runai models` for what is there."


class ModelNotFound(ModelError):
    code = "model_not_found"


class ModelBroken(ModelError):
    code = "model_broken"
    default_hint = "The file may be damaged or incomplete: fetch it again."


class ModelUnsafe(ModelError):
    code = "model_unsafe"
    default_hint = "Use a .safetensors version of this model: it cannot hold code."


class ModelUnsupported(ModelError):
    code = "model_unsupported"
    default_hint = "Choose another model: `runai models` lists what is there."


class VocabularyMissing(ModelError):
    code = "vocabulary_missing"
    default_hint = "Run `runai models get vocabulary` once; it fetches 1.3 MB and checks them."


class FilterMissing(ModelError):
    code = "filter_missing"
    default_hint = (
        "Put CompVis/stable-diffusion-safety-checker into the model folder, or turn the filter off."
    )


class EngineError(RunAIError):
    code = "engine"


class OutOfMemory(EngineError):
    code = "out_of_memory"
    default_hint = "Ask for a smaller picture or fewer images at once."


class DeviceLost(EngineError):
    code = "device_lost"
    default_hint = (
        "Start the server again; whatever starts it by itself should do so at exit code 4. "
        "If it comes again, look at the driver and the device."
    )


class NotFinite(EngineError):
    code = "not_finite"
    default_hint = "Start the server with --dtype fp32, or choose another model."


class DependencyMissing(EngineError):
    code = "dependency_missing"
    default_hint = "Install the package it names, or choose another sampler."


class FetchError(RunAIError):
    code = "fetch"
    default_hint = "Run the same command again: it goes on where it stopped."


class FetchFailed(FetchError):
    code = "fetch_failed"


class NoSpace(FetchError):
    code = "no_space"
    default_hint = "Make room, or name another folder."


class WireError(RunAIError):
    code = "wire"
    default_hint = "Use one packet size on both sides and end each message with an EOM packet."


class Truncated(WireError):
    code = "truncated"
    default_hint = "Send the whole message and its EOM packet before closing."


class TlsRequired(WireError):
    code = "tls_required"
    default_hint = "Connect with TLS: --tls-cert with the server's certificate for our commands."


class ServerStopping(RunAIError):
    code = "server_stopping"
    default_hint = "Connect again when the server has been restarted."


class SetupError(RunAIError):
    code = "setup"
    default_hint = "See `runai serve --help`."


class InvalidSetting(SetupError):
    code = "invalid_setting"


class AddressInUse(SetupError):
    code = "address_in_use"
    default_hint = "Stop the other program, or choose another --port (0 takes any free one)."


class ConnectionLost(RunAIError):
    code = "connection_lost"
    default_hint = "Start the server with `runai serve`, or check host and port."


class NoServer(ConnectionLost):
    code = "no_server"


class NotTrusted(ConnectionLost):
    code = "not_trusted"
    default_hint = (
        "Compare the certificate with the server's: if it was renewed, bring the new one here; "
        "else somebody may be listening in."
    )


def all_errors() -> dict[str, type[RunAIError]]:
    """Code -> class, the base first, parents before children."""
    found: dict[str, type[RunAIError]] = {}
    waiting: list[type[RunAIError]] = [RunAIError]
    while waiting:
        cls = waiting.pop(0)
        found[cls.code] = cls
        waiting.extend(cls.__subclasses__())
    return found
