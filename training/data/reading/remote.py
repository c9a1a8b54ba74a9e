"""Parquet in an object store: which objects a URL names, and what is in one.

Credentials, endpoint and region are those of the environment, as every tool of the store's maker takes them
(for S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, profiles, roles).
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq

from training.data.reading.lines import PrepareError

SCHEMES = ("s3", "gs", "abfss")
# What a table format calls its own books: of its files, only they say which still count.
TABLE_FORMATS = {"_delta_log": "Delta", "metadata": "Iceberg", ".hoodie": "Hudi"}


@dataclass(frozen=True)
class RemoteFile:
    """An object, by its whole URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    def parquet(self) -> pq.ParquetFile:
        """Open it. Raises `OSError`, `pa.ArrowException`."""
        filesystem, path = _place(self.url)
        return pq.ParquetFile(filesystem.open_input_file(path), pre_buffer=True)


LogFile = Path | RemoteFile


def _place(url: str) -> tuple[pa_fs.FileSystem, str]:
    """The store, and the path in it as it is: names of partitions may have percent signs of their own."""
    scheme, _, rest = url.rstrip("/").partition("://")
    bucket, _, key = rest.partition("/")
    filesystem, root = _store(scheme, bucket)
    return filesystem, f"{root}/{key}".rstrip("/")


@functools.cache
def _store(scheme: str, bucket: str) -> tuple[pa_fs.FileSystem, str]:
    if scheme != "s3":
        filesystem, root = pa_fs.FileSystem.from_uri(f"{scheme}://{bucket}")
        return filesystem, root
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        http, _, host = endpoint.rstrip("/").partition("://")
        return pa_fs.S3FileSystem(endpoint_override=host, scheme=http, region=region or "us-east-1"), bucket
    return pa_fs.S3FileSystem(region=region or pa_fs.resolve_s3_region(bucket)), bucket


def is_url(path: str | Path | RemoteFile) -> bool:
    """Whether it names something in an object store, or what looks like it."""
    return isinstance(path, RemoteFile) or "://" in str(path) or str(path).startswith("s3:/")


def remote_files(url: str) -> list[RemoteFile]:
    """The objects below a URL, or the one that it names, by their names, without marks and empty ones.

    Raises `PrepareError`.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES or not rest:
        known = ", ".join(f"{name}://…" for name in SCHEMES)
        raise PrepareError(f"{url}: what is read is {known}, or a file")
    try:
        filesystem, root = _place(url)
        found = filesystem.get_file_info(root)
        if found.type == pa_fs.FileType.Directory:
            objects = filesystem.get_file_info(pa_fs.FileSelector(root, recursive=True))
        else:
            objects = [found] if found.type == pa_fs.FileType.File else []
    except (OSError, pa.ArrowException, ValueError) as error:
        raise PrepareError(f"{url}: cannot be listed: {str(error).splitlines()[0]}") from error
    parts = {PurePosixPath(each.path).relative_to(root): each for each in objects}
    refuse_tables(url, {part.parts[0] for part in parts if len(part.parts) > 1})
    prefix = url.rstrip("/")
    files = [
        RemoteFile(f"{prefix}/{part}" if part.parts else url)
        for part, each in sorted(parts.items())
        if each.type == pa_fs.FileType.File and each.size and not is_mark(part)
    ]
    if not files:
        raise PrepareError(f"{url}: there is no object that holds anything")
    return files


def refuse_tables(place: object, folders: set[str]) -> None:
    """Raises `PrepareError` for a table whose directory holds files that are no part of it any more."""
    for folder in sorted(folders & TABLE_FORMATS.keys()):
        raise PrepareError(
            f"{place}: is the directory of a {TABLE_FORMATS[folder]} table, in which files lie that are no "
            "part of it any more: let its engine write the clicks as Parquet elsewhere"
        )


def is_mark(path: PurePath) -> bool:
    """Whether it is a mark of who wrote the files, not one of them."""
    return any(part.startswith(("_", ".")) for part in path.parts)
