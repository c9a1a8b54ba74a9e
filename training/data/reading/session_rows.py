"""Sessions as another engine made them: Parquet with a session a row, its items and their times in lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import duckdb
import pyarrow as pa

from training.data.dataset import SourceFile
from training.data.reading import sql
from training.data.reading.detect import is_parquet, parquet_schema
from training.data.reading.files import reading
from training.data.reading.lines import PrepareError
from training.data.reading.parquet_log import parquet_rows
from training.data.reading.presets import SESSIONS
from training.data.reading.reasons import judged_log, raw_of
from training.data.reading.remote import LogFile
from training.data.reading.tables import Log, begins_of, check_names, make_file_table, source_of


def read_session_rows(con: duckdb.DuckDBPyConnection, files: Sequence[LogFile]) -> Log:
    """Read sessions: `session_id`, `item_ids` in the order of clicks, and `timestamps`, one of each click.

    Without times the sessions are in the order of the rows. Raises `PrepareError`.
    """
    con.execute("CREATE TABLE sessions_read (file BIGINT, session VARCHAR, items VARCHAR[], times VARCHAR[])")
    con.execute("CREATE TABLE malformed (file BIGINT, line BIGINT, reason VARCHAR, raw VARCHAR)")
    sources = list[SourceFile]()
    for number, file in enumerate(files):
        with reading(file):
            if not is_parquet(file):
                raise PrepareError(f"{file}: is no Parquet, other than {files[0]}")
            sources.append(_insert(con, number, file))
    if len({"time" in source.columns for source in sources}) > 1:
        bare = next(source.path for source in sources if "time" not in source.columns)
        raise PrepareError(f"{bare}: has no column {SESSIONS.time!r}, and others have it")
    make_file_table(con, files, begins_of(con, "sessions_read", len(files)), [1] * len(files))
    told = "SELECT *, rowid AS row FROM sessions_read"
    # A list that is missing, empty, or beside another of other length has no clicks that could be told apart.
    is_whole = "len(items) > 0 AND len(times) = len(items)"
    con.execute(
        f"""
        INSERT INTO malformed
        SELECT file, row + row_to_line, if(coalesce(len(items), 0) = 0, 'no_events', 'malformed_row'), session
        FROM ({told}) JOIN files USING (file) WHERE NOT coalesce({is_whole}, false)
        """
    )
    con.execute(
        f"""
        CREATE TABLE log AS
        SELECT file, row, session, unnest(items) AS item, unnest(times) AS time,
            unnest(range(len(items)))::VARCHAR AS tick
        FROM ({told}) WHERE coalesce({is_whole}, false);
        DROP TABLE sessions_read
        """
    )
    rows = f"(SELECT *, {raw_of(SESSIONS)} AS raw FROM log)"
    if "time" in sources[0].columns:
        return judged_log(con, rows, SESSIONS, sources, rows_are_lines=True)
    log = judged_log(con, rows, replace(SESSIONS, time_format="microseconds"), sources, rows_are_lines=True)
    return replace(
        log, sources=tuple(source.model_copy(update={"time_unit": None}) for source in log.sources)
    )


def _insert(con: duckdb.DuckDBPyConnection, number: int, file: LogFile) -> SourceFile:
    schema = parquet_schema(file)
    named = {"session": SESSIONS.session, "item": SESSIONS.item, "time": SESSIONS.time}
    if SESSIONS.time not in schema.names:
        del named["time"]
    check_names(file, schema.names, named, SESSIONS)
    for name in named.values():
        _check_type(file, name, schema.field(name).type)
    with parquet_rows(con, file, list(named.values())) as rows:
        # Without times, those of a session are all its place: ticks keep its clicks in order.
        before = sql.value(con, "SELECT count(*) FROM sessions_read")
        place = f"list_transform(item_ids, lambda item: ({before} + n)::VARCHAR)"
        times = "timestamps::VARCHAR[]" if "time" in named else place
        con.execute(
            f"""
            INSERT INTO sessions_read SELECT {number}, session_id::VARCHAR, item_ids::VARCHAR[], {times}
            FROM (SELECT *, row_number() OVER () AS n FROM {rows.query})
            """
        )
    types = {field: str(schema.field(named[field]).type) for field in ("session", "item")}
    return source_of(file, "parquet", SESSIONS, named, lines=rows.count, id_types=types, sample=rows.sample)


def _check_type(file: LogFile, name: str, kind: pa.DataType) -> None:
    """Raises `PrepareError`: an engine writes what was agreed upon, or is told what that is."""
    types, what, inner = pa.types, "", kind
    if name != SESSIONS.session:
        what = "a list of "
        inner = kind.value_type if types.is_list(kind) or types.is_large_list(kind) else pa.null()
    fits = types.is_integer(inner)
    if name == SESSIONS.time:
        fits = fits or types.is_timestamp(inner) or types.is_floating(inner)
        what += "timestamps or numbers"
    else:
        fits = fits or types.is_string(inner) or types.is_large_string(inner)
        what += "text or whole numbers"
    if not fits:
        raise PrepareError(f"{file}: the column {name!r} is {kind}, and must be {what}")
