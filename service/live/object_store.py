"""The door to object stores: S3, Google Cloud Storage and Azure, through obstore.

Small objects are replaced by compare-and-swap (If-Match; of Google's, the generation). Who they are asked as
comes from the usual variables of each cloud, which obstore reads; nothing of that is ever told.
"""

from __future__ import annotations

import os
import random
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import ObjectStore as Client

INSTALL = "pip install 'nextclick[store]'"
TIMEOUT_SECONDS = 15.0  # for one request, of which none is longer than a piece
CONNECT_SECONDS = 5.0
RETRIES = 2  # by obstore: of what surely may be asked twice
PIECE_BYTES = 8 * 1024 * 1024
WRITER = "nextclick-writer"  # an attribute by which a write is known again whose answer was lost
TRIES = 40  # of one change against other writers; each lost try is another's success
MAX_PAUSE_SECONDS = 0.5

_SECRET = re.compile(r"^(AWS|AZURE|GOOGLE|GCS?)_.*(KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL|SAS|ACCOUNT)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)


class ObjectStoreError(RuntimeError):
    """The store does not answer, or refuses; the message says what was asked and why it failed."""


@dataclass(frozen=True)
class State:
    """Which content of an object was read: only that one is replaced."""

    e_tag: str | None
    version: str | None


@dataclass(frozen=True)
class Object:
    """A small object as it was read."""

    content: bytes
    state: State
    writer: str | None


@dataclass(frozen=True)
class Listed:
    """An object that there is; `name` is relative to the store's prefix."""

    name: str
    modified: datetime


class ObjectStore:
    """What lies under one URL. Every method raises `ObjectStoreError`."""

    def __init__(self, url: str) -> None:
        """`url` is a checked one. Nothing is asked yet."""
        if find_spec("obstore") is None:
            raise ObjectStoreError(f"{url}: stores need more than the service: {INSTALL}")
        from obstore.store import from_url

        self.url = url.rstrip("/")
        with self._told("cannot be opened"):
            self._client: Client = from_url(
                self.url,
                client_options={
                    "timeout": f"{TIMEOUT_SECONDS:g}s",
                    "connect_timeout": f"{CONNECT_SECONDS:g}s",
                    "allow_http": _allows_http(),
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=TIMEOUT_SECONDS),
                },
            )

    def read(self, name: str) -> Object | None:
        """An object; None if there is none."""
        return self._read(name, {})

    def read_if_new(self, name: str, seen: State | None) -> Object | None:
        """An object, unless it is as it was `seen` or there is none."""
        from obstore.exceptions import NotModifiedError

        if seen is None or seen.e_tag is None:
            return self._read(name, {})
        try:
            return self._read(name, {"if_none_match": seen.e_tag})
        except NotModifiedError:
            return None

    def replace(self, name: str, content: bytes, read: Object | None) -> bool:
        """Write an object if it is still the one that was `read`, None: if there is none; returns whether.

        An answer that is lost on its way is no failure: the object is looked at again.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        state = read.state if read is not None else None
        mode: Any = "create"
        if state is not None:
            named = {"e_tag": state.e_tag, "version": state.version}
            mode = {key: value for key, value in named.items() if value is not None}
        writer = uuid.uuid4().hex
        try:
            with self._told(f"{name} cannot be written", AlreadyExistsError, PreconditionError):
                obstore.put(
                    self._client,
                    name,
                    content,
                    mode=mode,
                    attributes={WRITER: writer},
                    use_multipart=False,
                )
        except (AlreadyExistsError, PreconditionError):
            return self._is_by(writer, name)
        except ObjectStoreError as error:
            if isinstance(error.__cause__, BaseError | OSError) and self._is_by(writer, name, error):
                return True
            raise
        return True

    def _is_by(self, writer: str, name: str, otherwise: ObjectStoreError | None = None) -> bool:
        try:
            found = self.read(name)
        except ObjectStoreError:
            if otherwise is not None:
                raise otherwise from None
            raise
        return found is not None and found.writer == writer

    def upload(self, name: str, file: Path) -> None:
        """Write a file, whatever there was."""
        import obstore

        with self._told(f"{name} cannot be written"), file.open("rb") as stream:
            obstore.put(self._client, name, stream, chunk_size=PIECE_BYTES)

    def download(self, name: str, file: Path) -> None:
        """Read an object into a file, piece by piece: none takes longer than a request may."""
        import obstore

        with self._told(f"{name} cannot be read"):
            size = obstore.head(self._client, name)["size"]
            with file.open("wb") as stream:
                for start in range(0, size, PIECE_BYTES):
                    end = min(start + PIECE_BYTES, size)
                    stream.write(obstore.get_range(self._client, name, start=start, end=end))
                stream.flush()
                os.fsync(stream.fileno())

    def list(self, folder: str) -> list[Listed]:
        """Every object below a folder."""
        import obstore

        with self._told(f"{folder} cannot be listed"):
            found = obstore.list(self._client, folder)
            return [Listed(each["path"], each["last_modified"]) for some in found for each in some]

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is not there is deleted already."""
        import obstore

        for name in names:
            try:
                with self._told(f"{name} cannot be deleted", FileNotFoundError):
                    obstore.delete(self._client, name)
            except FileNotFoundError:
                continue

    def _read(self, name: str, options: Any) -> Object | None:
        import obstore
        from obstore.exceptions import NotModifiedError

        try:
            with self._told(f"{name} cannot be read", FileNotFoundError, NotModifiedError):
                found = obstore.get(self._client, name, options=options)
                meta = found.meta
                writer = found.attributes.get(WRITER)
                state = State(meta.get("e_tag"), meta.get("version"))
                return Object(bytes(found.bytes()), state, writer)
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise ObjectStoreError(f"{self.url}: there is no such bucket") from None
            return None

    @contextmanager
    def _told(self, failed: str, *but: type[Exception]) -> Iterator[None]:
        """What obstore raises, in a line without secrets; `but` is for whoever calls."""
        from obstore.exceptions import BaseError

        try:
            yield
        except but:
            raise
        except (BaseError, OSError, ValueError) as error:
            raise ObjectStoreError(f"{self.url}: {failed}: {reason(error)}") from error


def attempts(tries: int = TRIES, sleep: Callable[[float], object] = time.sleep) -> Iterator[None]:
    """So many tries of one change, with growing pauses of random length between them."""
    for number in range(tries):
        if number:
            sleep(random.uniform(0, min(MAX_PAUSE_SECONDS, 0.02 * 2 ** min(number, 10))))
        yield


def reason(error: Exception) -> str:
    """What a store has said, on one line, without what follows `?` in URLs, keys and tokens."""
    first = str(error).split("\n\nDebug source")[0]
    said, _, body = first.partition(": <")
    code = re.search(r"<Code>(\w+)</Code>", body)
    text = re.sub(r"\?\S*", "", " ".join(said.split())) + (f" ({code[1]})" if code else "")
    for name, value in os.environ.items():
        if _SECRET.match(name) and len(value) > 3:
            text = text.replace(value, "***")
    return text or type(error).__name__


def _allows_http() -> bool:
    """As obstore would read it, which takes its options from us or from the environment."""
    clouds = ("AWS", "AZURE", "GOOGLE")
    return any(os.environ.get(f"{cloud}_ALLOW_HTTP", "").lower() in ("1", "true") for cloud in clouds)
