"""Which parts make up a server: settings in, service and options out.

Imports no torch: `torch_engine` does that when it is called, on the worker thread.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import runai
from runai.cli import logs, program
from runai.cli.abandoning import abandoned_when
from runai.client import Client
from runai.client.client import TIMEOUT_S
from runai.errors import DependencyMissing, RunAIError
from runai.jobs.engine import Engine
from runai.jobs.service import Service
from runai.schema.limits import Limits
from runai.schema.requests import Convert
from runai.settings import Settings, as_text
from runai.transports.socket_server import SocketOptions

# before huggingface_hub, transformers and diffusers are imported: they read these once
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "YES",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
}
# torch makes a folder for what it compiles, in the temporary folder, when diffusers is imported,
# and cannot be imported where none can be made. Nothing is compiled here: any folder will do
NOTHING_COMPILED = {"TORCHINDUCTOR_CACHE_DIR": sys.prefix}
EXAMPLE = "models.example"
DEFAULT_MODEL = "default"  # to preload
if TYPE_CHECKING:
    from runai.streams.contexts import Trust

Fatal = Callable[[RunAIError], None]


def stay_offline() -> None:
    """Tell the libraries not to use the network, whatever the environment says, nor the disk."""
    os.environ.update({**NOTHING_COMPILED, **OFFLINE})


def limits(settings: Settings) -> Limits:
    return Limits(
        max_pixels=settings.max_pixels,
        max_steps=settings.max_steps,
        max_images=settings.max_images,
        max_input_pixels=settings.max_input_pixels,
        max_json_depth=settings.max_json_depth,
    )


def socket_options(settings: Settings) -> SocketOptions:
    return SocketOptions(
        packet_size=settings.packet_size,
        max_message_bytes=settings.max_message_bytes,
        max_connections=settings.max_client_connections,
        keep_alive=settings.keep_alive,
        idle_exit_s=settings.idle_exit_s or None,
        max_connections_per_peer=settings.max_connections_per_peer,
        first_client_timeout_s=settings.first_client_timeout_s,
        auth_timeout_s=settings.auth_timeout_s,
        message_timeout_s=settings.message_timeout_s,
        idle_timeout_s=settings.idle_timeout_s,
    )


def client(settings: Settings, *, observer: bool = False, timeout_s: float = TIMEOUT_S) -> Client:
    """A client, not connected yet, of the server that the settings name. Raises InvalidSetting."""
    return Client(
        settings.host,
        settings.port,
        unix_path=settings.unix_path,
        token=settings.token,
        trust=_trust(settings),
        packet_size=settings.packet_size,
        observer=observer,
        timeout_s=timeout_s,
    )


def _trust(settings: Settings) -> Trust | None:
    """None: plain bytes."""
    if settings.tls_cert is None and not settings.tls:
        return None
    from runai.streams.contexts import OwnCertificate, Trust

    file = settings.tls_client_cert
    return Trust(settings.tls_cert, None if file is None else OwnCertificate(file, file))


def service(
    settings: Settings, make_engine: Callable[[], Engine] | None, on_fatal: Fatal
) -> Service:
    """A service that is not started yet; without `make_engine` torch draws.

    An engine that is still being imported when the service is told to stop is given up.
    """
    stay_offline()

    def import_and_make() -> Engine:
        with abandoned_when(lambda: made.state == "stopping"):
            return torch_engine(settings)

    def make() -> Engine:
        engine = make_engine() if make_engine is not None else import_and_make()
        # what was imported stays: the collector would hold all threads up for a tenth of a second,
        # now and then, to go through it
        gc.collect()
        gc.freeze()
        return engine

    made = Service(
        make,
        limits(settings),
        max_queued=settings.max_queued,
        max_open_per_session=settings.max_queued_per_client,
        max_unread_bytes=settings.max_unread_bytes,
        resume_s=settings.resume_s,
        max_parked=settings.max_client_connections,
        on_fatal=on_fatal,
        log_prompts=settings.log_prompts,
        preload="" if settings.preload == DEFAULT_MODEL else settings.preload,
        conversion=functools.partial(conversion, settings) if settings.allow_convert else None,
    )
    return made


def conversion(settings: Settings, asked: Convert) -> list[str]:
    """The command that does what a client asked for, beside the model and nowhere else."""
    base = ["--model-base-path", as_text(settings.model_base_path)]
    return [*program.words(), "models", "convert", "--to", asked.form, *base, "--", asked.model]


def torch_engine(settings: Settings) -> Engine:
    """The engine that draws with diffusers. Raises DependencyMissing or InvalidSetting."""
    try:
        from runai.engine.engine import TorchEngine
    except ImportError as error:
        raise DependencyMissing(
            f"The engine cannot be imported: {error}.",
            hint="Install the package with all it needs: pip install runai.",
        ) from error
    logs.adopt_libraries()
    return TorchEngine(
        settings.model_base_path,
        device=settings.device,
        dtype=settings.dtype,
        max_batch=settings.max_batch or None,
        prefer=settings.prefer,
        limits=limits(settings),
        example_path=example_path(),
        max_memory=settings.max_memory,
        idle_unload_s=settings.idle_unload_s,
        nsfw_filter_missing=settings.nsfw_filter_missing,
        watermark_missing=settings.watermark_missing,
        backend=settings.backend,
    )


def example_path() -> Path | None:
    """The folder of the model that comes with RunAI: in the package, or beside it (a checkout)."""
    package = Path(runai.__file__).resolve().parent
    homes = (package / EXAMPLE, package.parent / EXAMPLE)
    return next((path for path in homes if path.is_dir()), None)
