"""The one table of settings: each field of `Settings` is a row, which gives all of its names."""

from __future__ import annotations

import os
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from runai.errors import InvalidSetting
from runai.settings.kinds import (
    BACKEND,
    DEVICE,
    DTYPE,
    FILE,
    FOLDERS,
    HOST,
    LEVEL,
    LOG_FORMAT,
    MISSING,
    MODEL,
    PREFER,
    SECONDS,
    SOME_SECONDS,
    SWITCH,
    UNIX,
    UNIX_SCHEME,
    Kind,
    is_loopback,
    whole,
)

ACCEPT_ATTEMPTS = 3
ATTEMPT_S = 3.0
MODEL_BASE_PATH = Path("~/stablediffusion").expanduser()
MIB = 1024 * 1024


def _row(default: Any, kind: Kind, help_: str, **more: str) -> Any:
    return field(default=default, metadata={"kind": kind, "help": help_, **more})


@dataclass(frozen=True)
class Settings:
    """Every setting, valid and complete."""

    host: str = _row("localhost", HOST, "where to listen, or which server to ask")
    port: int = _row(50006, whole(0, 65535, "PORT"), "TCP port; 0 takes any free one")
    listen: str | None = _row(
        None, UNIX, "a Unix socket to listen on, or to ask, instead of host and port"
    )
    token_file: Path | None = _row(
        None, FILE, "the token that clients must show, or that is shown; else RUNAI_TOKEN"
    )
    tls_cert: Path | None = _row(
        None, FILE, "the server's certificate (PEM): to show, or the only one to believe"
    )
    tls_key: Path | None = _row(None, FILE, "the key (PEM) of the server's certificate")
    tls_client_ca: Path | None = _row(
        None, FILE, "let in only clients with a certificate that these (PEM) vouch for"
    )
    tls_client_cert: Path | None = _row(
        None, FILE, "to ask with: the certificate and key (PEM, one file) to show to a server"
    )
    tls: bool = _row(
        False, SWITCH, "to ask with: TLS, believing the certificates that this computer trusts"
    )
    timeout: bool = _row(False, SWITCH, "give up when no client comes: 3 attempts of 3 seconds")
    packet_size: int = _row(1024, whole(16, MIB, "BYTES"), "bytes a packet, on both sides")
    model_base_path: tuple[Path, ...] = _row(
        (MODEL_BASE_PATH,),
        FOLDERS,
        f"the folder of models, or several with {os.pathsep!r} between them",
        also="BASE_DIR",
    )
    max_client_connections: int = _row(32, whole(1, 4096), "clients at the same time")
    max_connections_per_peer: int = _row(
        16, whole(1, 4096), "those of one address; all of this computer count as one"
    )
    keep_alive: bool = _row(False, SWITCH, "go on when the last client has left")
    idle_exit_s: float = _row(
        0.0,
        SECONDS,
        "end when no client was there so long, and not before; 0 leaves it to --keep-alive",
    )
    max_message_bytes: int = _row(64 * MIB, whole(1024, word="BYTES"), "largest message read")
    max_json_depth: int = _row(32, whole(8, 256), "how deeply a message may be nested")
    max_input_pixels: int = _row(
        4096 * 4096, whole(64 * 64, 2**27), "largest picture read: width × height"
    )
    max_pixels: int = _row(2048 * 2048, whole(64 * 64), "largest picture drawn: width × height")
    max_steps: int = _row(200, whole(1, 1000), "most steps a request")
    max_images: int = _row(16, whole(1, 64), "most images a request")
    max_queued: int = _row(256, whole(1), "requests that may wait")
    max_queued_per_client: int = _row(
        64, whole(1), "requests of one client whose answers it has not read"
    )
    max_unread_bytes: int = _row(
        128 * MIB, whole(1, word="BYTES"), "of finished pictures; past it, nothing more is drawn"
    )
    auth_timeout_s: float = _row(
        10.0, SOME_SECONDS, "what a client may take to agree on TLS and to show its token"
    )
    message_timeout_s: float = _row(60.0, SOME_SECONDS, "what a message may take to come")
    idle_timeout_s: float = _row(0.0, SECONDS, "leave a client that asks nothing so long; 0: never")
    resume_s: float = _row(
        30.0,
        SECONDS,
        "what a client whose connection broke may take to come back; 0: nothing is kept",
    )
    preload: str | None = _row(
        None, MODEL, "a model to load at the start, before anybody asks; default: the default one"
    )
    device: str = _row("auto", DEVICE, "what to draw on: auto, cpu, cuda, cuda:N or mps")
    dtype: str = _row("auto", DTYPE, "number format: auto, fp32, fp16 or bf16")
    backend: Literal["auto", "torch", "openvino"] = _row(
        "auto", BACKEND, "what computes: torch alone, openvino, or auto, the fastest that is here"
    )
    max_batch: int = _row(0, whole(0, 64), "pictures drawn in one batch; 0: see --prefer")
    prefer: Literal["balanced", "throughput", "latency"] = _row(
        "balanced", PREFER, "what measured batches are for: balanced, throughput or latency"
    )
    max_memory: int = _row(
        0, whole(0, word="BYTES"), "most memory for models and drawing; 0: all there is"
    )
    idle_unload_s: float = _row(0.0, SECONDS, "let go of what was not used so long; 0: never")
    nsfw_filter_missing: Literal["error", "warn"] = _row(
        "error", MISSING, "NSFW filter asked for and not there: error, or warn and draw"
    )
    watermark_missing: Literal["error", "warn"] = _row(
        "error", MISSING, "watermark asked for and not possible: error, or warn and draw"
    )
    grace_s: float = _row(5.0, SECONDS, "what is being drawn may take so long when told to stop")
    insecure: bool = _row(
        False, SWITCH, "allow other computers without a token or without TLS: see docs/security.md"
    )
    allow_convert: bool = _row(False, SWITCH, "let clients convert models, which writes files")
    log_level: str = _row("info", LEVEL, "debug, info, warning or error")
    log_format: Literal["human", "json"] = _row(
        "human", LOG_FORMAT, "lines to read, or one JSON object a line"
    )
    log_prompts: bool = _row(False, SWITCH, "let the log show prompts, which are private")
    token: str = field(default="", repr=False)  # no row: it is never on a command line

    @property
    def unix_path(self) -> Path | None:
        """The Unix socket that stands in for host and port."""
        return Path(self.listen.removeprefix(UNIX_SCHEME)) if self.listen is not None else None

    @property
    def is_local(self) -> bool:
        """Whether the server is one that only programs on this computer can reach."""
        return self.listen is not None or is_loopback(self.host)

    def at(self, address: str, *, is_path: bool) -> Settings:
        """The same for an address, or a Unix socket's path, that somebody else has chosen."""
        return replace(self, listen=UNIX_SCHEME + address if is_path else None, host=address)

    def check_reach(self, place: str, *, serving: bool = False) -> None:
        """Other computers come in, or are asked, with a token and TLS. Raises InvalidSetting.

        `place`: who said where. `serving`: certificates to believe are none to show.
        """
        if self.insecure or self.is_local:
            return
        has_tls = self.tls_cert and self.tls_key if serving else self.tls_cert or self.tls
        wanted = {
            "a token (--token-file or RUNAI_TOKEN)": self.token,
            "TLS (--tls-cert, and --tls-key to serve)": has_tls,
        }
        missing = [what for what, given in wanted.items() if not given]
        if missing:
            raise InvalidSetting(
                f"{place}: {self.host} is more than this computer, which needs "
                f"{' and '.join(missing)}.",
                hint="`runai certificate` makes both; --insecure does without, where everybody "
                "on the network may use and hear this.",
            )

    @property
    def first_client_timeout_s(self) -> float | None:
        """How long to wait for the first client, in seconds; None: for ever."""
        return ACCEPT_ATTEMPTS * ATTEMPT_S if self.timeout else None


@dataclass(frozen=True)
class Row:
    """One setting and the names that it goes by."""

    name: str
    kind: Kind
    help: str
    default: Any
    also: str | None  # a second environment variable

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "RUNAI_" + self.name.upper()

    @classmethod
    def of(cls, entry: Field[Any]) -> Row:
        meta = entry.metadata
        return cls(entry.name, meta["kind"], meta["help"], entry.default, meta.get("also"))


ROWS = {entry.name: Row.of(entry) for entry in fields(Settings) if entry.metadata}
