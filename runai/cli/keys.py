"""What it takes to come in, read from the files that the settings name.

Light enough to be done before the server listens: nobody is to connect to one that cannot tell
friend from stranger. `ssl` is imported only where there are certificates.
"""

from __future__ import annotations

import os
from pathlib import Path

from runai.errors import InvalidSetting
from runai.settings import Settings, read_token
from runai.transports.gate import Keys

OTHERS = 0o077  # the permissions of everybody but the owner


def read(settings: Settings) -> Keys:
    """The token and the certificates as they are in the files now. Raises InvalidSetting."""
    token = read_token(settings.token_file, os.environ)
    files = (settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if not any(files) and (settings.insecure or settings.is_local):
        return Keys(token)
    if settings.tls_cert is None or settings.tls_key is None:
        raise InvalidSetting(
            "A server that speaks TLS needs both --tls-cert and --tls-key.",
            hint="Make a pair with `runai certificate`.",
        )
    from runai.streams.contexts import OwnCertificate, server_context

    own = OwnCertificate(settings.tls_cert, settings.tls_key)
    return Keys(token, server_context(own, settings.tls_client_ca))


def secret(settings: Settings) -> list[Path]:
    """The files whose content is nobody else's business."""
    return [file for file in (settings.token_file, settings.tls_key) if file is not None]


def is_exposed(file: Path) -> bool:
    """Whether other users of this computer may read or write it; not if it is gone."""
    try:
        return bool(file.stat().st_mode & OTHERS)
    except OSError:
        return False
