"""`python -m service`: read the settings, then run the service."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from service.catalogue.attributes import CatalogueFileError, Schema
from service.live.artifacts import Artifacts
from service.live.mirror import mirrored
from service.live.object_store import ObjectStoreError
from service.process import logs
from service.process.embedded_redis import EmbeddedRedisError
from service.process.listener import ListenError
from service.process.settings import SettingsError, describe, load_settings, variable
from service.process.supervisor import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve next-click recommendations.",
        epilog="Everything else is set by NEXTCLICK_... variables in the environment.",
    )
    parser.add_argument("--host", help="address to listen on (NEXTCLICK_HOST)")
    parser.add_argument("--port", help="TCP port to listen on (NEXTCLICK_PORT)")
    parser.add_argument("--workers", help="worker processes (NEXTCLICK_WORKERS)")
    parser.add_argument("--print-settings", action="store_true", help="show every setting, and end")
    options = parser.parse_args(arguments)
    return run(options.host, options.port, options.workers, print_settings=options.print_settings)


def run(host: str | None, port: str | None, workers: str | None, *, print_settings: bool) -> int:
    """Returns the exit status: 2 for settings that are wrong, 1 when the service cannot be started."""
    for field, value in (("host", host), ("port", port), ("workers", workers)):
        if value is not None:
            os.environ[variable(field)] = value  # so that the workers see it too
    try:
        settings = load_settings()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    if print_settings:
        print(describe(settings))
        return 0
    try:
        Schema.of(settings)  # the workers do it again
    except CatalogueFileError as error:
        print(error, file=sys.stderr)
        return 2
    logs.configure(settings)
    try:
        with mirrored(Artifacts.of(settings), settings.deployment_poll_seconds):
            return serve(settings)
    except ObjectStoreError as error:
        print(error, file=sys.stderr)
        return 2
    except (ListenError, EmbeddedRedisError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
