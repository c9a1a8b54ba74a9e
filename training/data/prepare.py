"""From click logs to a prepared data set: read, cut into sessions, filter, split, write.

All of it runs inside DuckDB, which keeps on disk what its memory cannot hold; the result is streamed into the
arrays. So memory does not grow with the log. Every step is a table, and is counted as it is made.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np

from training.data.arrays import write_arrays
from training.data.dataset import MANIFEST, DatasetInfo, SourceFile, write_info
from training.data.formats import (
    SECOND,
    Log,
    LogFile,
    LogFormat,
    PrepareError,
    check_file,
    log_files,
    read_any,
    read_sessions,
)
from training.data.reading import sql
from training.data.sessions import (
    cut_by_inactivity,
    drop_rare_items,
    drop_repeats,
    drop_short_sessions,
    newest_clicks,
)
from training.data.split import (
    DAY,
    drop_unseen_items,
    split_cut,
    split_whole,
)

MEMORY_LIMIT = "1500MB"  # DuckDB's; a process needs about twice that in all
MAX_THREADS = 8  # each holds buffers of its own
REJECTED = "rejected.csv"
# Rows that are as they should be, and yet no clicks to learn from: no reason to stop.
LEFT_OUT = ("no_session", "no_visitor", "outside_time_range", "repeated_header")
GAP_DAYS = 30  # what lies beyond a longer pause than this is not the log's time, but a wrong clock's
_MOST_BEYOND = 0.05  # of the clicks


class TooManyRejectedError(PrepareError):
    """More rows were rejected than is allowed; the message says how many, why, and where they are listed."""


@dataclass(frozen=True)
class Rules:
    """How clicks become sessions and sessions a data set; the defaults are the RSC15/GRU4Rec protocol's."""

    gap_minutes: float = 30
    min_session_length: int = 2
    min_item_support: int = 5
    test_days: float = 1
    validation: float = 0.1
    drop_repeats: bool = False
    until_stable: bool = False
    max_session_length: int | None = 500  # of a longer one, the newest clicks are kept
    cut_straddling: bool = False
    first_time: int | None = None  # microseconds; clicks before it, and from `end_time` on, are left out
    end_time: int | None = None


@dataclass(frozen=True)
class Step:
    """What there is after a step."""

    name: str
    clicks: int
    sessions: int
    items: int


def prepare(
    inputs: Sequence[str | LogFile],
    output: Path,
    *,
    tests: Sequence[str | LogFile] = (),
    log_format: LogFormat | None = None,
    name: str | None = None,
    rules: Rules | None = None,
    max_rejected: float = 0.01,
    force: bool = False,
    report: Callable[[Step], None] = lambda step: None,
    tell: Callable[[str], None] = lambda word: None,
    show: Callable[[Sequence[SourceFile]], None] = lambda sources: None,
) -> DatasetInfo:
    """Make the data set `output` from the log `inputs`, or from one that is split into `inputs` and `tests`.

    A log that comes split is taken as it is: of the rules only `gap_minutes` and `validation` apply, and its
    test sessions keep the items that no training session holds. Without a `log_format`, files have one
    session a line. What was understood of the files is shown before anything is told of.
    Raises `PrepareError`; then there is no `output`, or still the old one.
    """
    rules = rules or Rules()
    words: list[str] = []
    input_files, test_files = log_files(inputs, words.append), log_files(tests, words.append)
    files = (*input_files, *test_files)
    for file in files:
        check_file(file)
    if log_format is None and not tests:
        raise PrepareError("one session a line tells no times to split by: give the test sessions as --test")
    with _built_aside(output, force) as directory:
        with database(directory) as con:
            if log_format:
                log = read_any(con, files, log_format, directory)
            else:
                log = read_sessions(con, files, directory)
            if not tests and any("time" not in source.columns for source in log.sources):
                raise PrepareError(
                    "sessions without times tell none to split by: give the test sessions as --test"
                )
            log = _accepted(con, log)
            if log_format:
                log = _within_time_range(con, log, rules, is_split=bool(tests), tell=words.append)
            con.execute(f"CREATE TABLE rejected AS FROM {log.rejected}")
            source = _source(con, log)
            show(source)
            for file in log.by_line:
                words.append(f"{file}: has damaged records and was read line by line, which takes longer")
            for word in words:
                tell(word)
            counts = _accept(con, log, directory, output, max_rejected)
            steps = _Steps(con, report)
            clicks = steps.take("read", _encoded(con, n_inputs=len(input_files)))
            if log_format and log_format.by_visitor:
                gap = round(rules.gap_minutes * 60 * SECOND)
                clicks = steps.take("cut into sessions", cut_by_inactivity(clicks, gap), replaces=clicks)
            if not tests and rules.max_session_length:
                clicks = _cut_long(clicks, rules.max_session_length, steps, tell)
            if tests:
                steps.take("train", f"(FROM {clicks} WHERE NOT in_test_file)")
                steps.take("test", f"(FROM {clicks} WHERE in_test_file)")
            else:
                if steps.last.sessions == 1:
                    raise PrepareError("the log holds a single session: nothing to train on and to test with")
                clicks = _filter(clicks, rules, steps)
                _split(clicks, rules, log_format is not None and log_format.by_day, steps)
            write_arrays(con, directory)
        n_train = steps.done["train"].sessions
        n_validation = max(1, int(n_train * rules.validation)) if rules.validation else 0
        if n_validation >= n_train:
            raise PrepareError(f"there is nothing to train on beside {n_validation} validation session(s)")
        return write_info(
            directory,
            name=name or output.name,
            n_items=steps.done["train"].items,
            n_validation=n_validation,
            counts=counts | steps.counts,
            options=_options(rules, input_files, test_files, log_format),
            source=source,
        )


class _Steps:
    """Makes each step's clicks a table, counts them, and refuses to go on with none."""

    def __init__(self, con: duckdb.DuckDBPyConnection, report: Callable[[Step], None]) -> None:
        self.con = con
        self.report = report
        self.done: dict[str, Step] = {}

    def take(self, name: str, clicks: str, *, replaces: str | None = None, hint: str = "") -> str:
        """Make the table, named as the step is, of a query that may be of the table that it replaces."""
        table = sql.named(name)
        self.con.execute(f"CREATE TABLE {table} AS FROM {clicks}")
        if replaces is not None:
            self.con.execute(f"DROP TABLE {replaces}")
        counts = "count(*) AS clicks, count(DISTINCT session) AS sessions, count(DISTINCT item) AS items"
        [counted] = sql.found(self.con, f"SELECT {counts} FROM {table}")
        self.done[name] = Step(name, **counted)
        self.report(self.done[name])
        if not self.done[name].clicks:
            raise PrepareError(f"no click is left after the step '{name}'{hint and ': '}{hint}")
        return table

    @property
    def last(self) -> Step:
        """The step just taken."""
        return next(reversed(self.done.values()))

    @property
    def counts(self) -> dict[str, int]:
        """For dataset.json."""
        return {
            f"{step.name}_{unit}".replace(" ", "_"): getattr(step, unit)
            for step in self.done.values()
            for unit in ("clicks", "sessions", "items")
        }


def _accepted(con: duckdb.DuckDBPyConnection, log: Log) -> Log:
    """Make the table `accepted` of the clicks; the log then knows whether there are other rows at all."""
    columns = "file, row, session, item, time, tick"
    con.execute(f"CREATE TABLE accepted AS SELECT {columns} FROM {log.rows} WHERE reason IS NULL")
    both = f"SELECT (SELECT count(*) FROM accepted) = (SELECT count(*) FROM {log.rows})"
    if sql.value(con, both):  # to look for a reason again would take as long as the first time
        log = replace(log, rows=f"(SELECT * REPLACE (NULL AS reason) FROM {log.rows})")
    return log


def _source(con: duckdb.DuckDBPyConnection, log: Log) -> list[SourceFile]:
    """What was detected of every file, with what was kept of it and what was not."""
    # Written otherwise, with zeros before or as 1e3, it is text.
    is_whole = r"regexp_matches({}, '^(?:0|-?[1-9]\d{{0,17}})$')"
    found = sql.found(
        con,
        f"""
        SELECT file, count(*) AS kept, min(time) AS first, max(time) AS last,
            bool_and({is_whole.format("session")}) AS whole_session,
            bool_and({is_whole.format("item")}) AS whole_item
        FROM accepted GROUP BY file
        """,
    )
    by_file = {row.pop("file"): row for row in found}
    reasons = "SELECT file, reason, count(*) FROM rejected GROUP BY file, reason ORDER BY file, reason"
    by_path: dict[str, dict[str, int]] = {}
    for file, reason, rows in con.execute(reasons).fetchall():
        by_path.setdefault(file, {})[reason] = rows
    sources = []
    for number, source in enumerate(log.sources):
        lost = by_path.get(source.path, {})
        if number in log.other_events:
            lost["other_event"] = log.other_events[number]
        facts: dict[str, object] = {"rejected": lost}
        if kept := by_file.get(number):
            facts["kept"] = kept["kept"]
            if source.time_unit:
                facts |= {"first_time": _iso(kept["first"]), "last_time": _iso(kept["last"])}
            types = {name: "integer" if kept[f"whole_{name}"] else "text" for name in ("session", "item")}
            facts["id_types"] = types | source.id_types
        sources.append(source.model_copy(update=facts))
    return sources


def _iso(microseconds: int) -> str:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return time.isoformat().replace("+00:00", "Z")


def _accept(
    con: duckdb.DuckDBPyConnection, log: Log, directory: Path, output: Path, max_rejected: float
) -> dict[str, int]:
    """List the rows that are not `accepted` in rejected.csv, and count both."""
    reasons = sql.found(con, "SELECT reason, count(*) AS rows FROM rejected GROUP BY reason ORDER BY reason")
    n_accepted = sql.value(con, "SELECT count(*) FROM accepted")
    n_rejected = sum(found["rows"] for found in reasons)
    n_rows = n_accepted + n_rejected
    n_bad = sum(found["rows"] for found in reasons if found["reason"] not in LEFT_OUT)
    if not n_rows:
        raise PrepareError("the log holds no click")
    if n_bad > max_rejected * n_rows:
        kept = output.with_name(f"{output.name}.{REJECTED}")
        _list_rejected(con, kept)
        raise TooManyRejectedError(
            f"{n_bad:,} of {n_rows:,} rows, {n_bad / n_rows:.2%}, are no clicks"
            f" ({', '.join('{reason} {rows:,}'.format(**found) for found in reasons)});"
            f" --max-rejected is {max_rejected:.2%}. They are listed in {kept}"
        )
    if n_rejected:
        _list_rejected(con, directory / REJECTED)
    con.execute("DROP TABLE log; DROP TABLE rejected")
    counts = {"rows": n_rows, "other_events": sum(log.other_events.values()), "rejected": n_rejected}
    return counts | {f"rejected_{found['reason']}": found["rows"] for found in reasons}


def _list_rejected(con: duckdb.DuckDBPyConnection, file: Path) -> None:
    con.execute(f"COPY (FROM rejected ORDER BY file, line) TO {sql.text(str(file))} (FORMAT csv, HEADER)")


def _within_time_range(
    con: duckdb.DuckDBPyConnection, log: Log, rules: Rules, *, is_split: bool, tell: Callable[[str], None]
) -> Log:
    """Take the clicks outside the time range from `accepted`; by default, those that a long pause cuts off.

    One wrong clock would else be the newest day, and its session the whole test.
    """
    first, end = rules.first_time, rules.end_time
    if first is None and end is None and not is_split:
        days = f"SELECT time // {DAY} AS day, count(*) FROM accepted GROUP BY day ORDER BY day"
        first, end = _time_range(con.execute(days).fetchall(), tell)
    if first is None and end is None:
        return log
    edges = [(first, "time < {}"), (end, "time >= {}")]
    outside = " OR ".join(edge.format(time) for time, edge in edges if time is not None)
    con.execute(f"DELETE FROM accepted WHERE {outside}")
    reason = f"CASE WHEN reason IS NULL AND ({outside}) THEN 'outside_time_range' ELSE reason END"
    return replace(log, rows=f"(SELECT * REPLACE ({reason} AS reason) FROM {log.rows})")


def _time_range(
    days: Sequence[tuple[int, int]], tell: Callable[[str], None]
) -> tuple[int | None, int | None]:
    """Where the log's time begins and ends, by its days and their clicks, if not where it seems to."""
    total = sum(clicks for _, clicks in days)
    first = end = None
    pauses = [(before, day) for (before, _), (day, _) in itertools.pairwise(days) if day - before > GAP_DAYS]
    beyond = 0
    for (before, _), (day, clicks) in reversed(list(itertools.pairwise(days))):
        beyond += clicks
        if beyond > _MOST_BEYOND * total:
            break
        if day - before > GAP_DAYS:
            end = (before + 1) * DAY
            tell(_told(beyond, "after", before, day, days[-1][0]))
    beyond = 0
    for (day, clicks), (after, _) in itertools.pairwise(days):
        beyond += clicks
        if beyond > _MOST_BEYOND * total:
            break
        if after - day > GAP_DAYS:
            first = after * DAY
            tell(_told(beyond, "before", after, days[0][0], day))
    for before, day in pauses:
        if (end is None or before < end // DAY - 1) and (first is None or day > first // DAY):
            dates = np.datetime64(before, "D"), np.datetime64(day, "D")
            share = sum(clicks for when, clicks in days if when >= day) / total
            tell(
                f"no click for {day - before - 1} days from {dates[0]} to {dates[1]}; {share:.1%} of "
                "all are after it, and both parts are kept; --time-range says which to take"
            )
    return first, end


def _told(clicks: int, where: str, edge: int, first: int, last: int) -> str:
    dates = [np.datetime64(day, "D") for day in (edge, first, last)]
    return (
        f"{clicks:,} clicks are left out: {dates[1]} to {dates[2]} lies more than {GAP_DAYS} days {where} "
        f"{dates[0]}, where the log's other clicks are; --time-range .. keeps all, or says which"
    )


def _encoded(con: duckdb.DuckDBPyConnection, n_inputs: int) -> str:
    """The accepted clicks, with whole numbers in place of session and item ids."""
    con.execute(
        """
        CREATE TABLE distinct_ids AS SELECT DISTINCT item AS item_id FROM accepted;
        CREATE TABLE item_ids AS SELECT item_id, rowid AS item FROM distinct_ids
        """
    )
    # A session is named by its first row, which no other session has.
    return f"""(
        WITH clicks AS (
            SELECT file >= {n_inputs} AS in_test_file, session AS session_id, item AS item_id, time, tick, row
            FROM accepted
        ), sessions AS (
            SELECT in_test_file, session_id, min(row) AS session FROM clicks GROUP BY in_test_file, session_id
        )
        SELECT session, item, time, tick, row, in_test_file
        FROM clicks JOIN item_ids USING (item_id) JOIN sessions USING (in_test_file, session_id)
    )"""


def _cut_long(clicks: str, longest: int, steps: _Steps, tell: Callable[[str], None]) -> str:
    """Of sessions that are too long to be a visitor's, keep the newest clicks."""
    long = f"(SELECT session FROM {clicks} GROUP BY session HAVING count(*) > {longest})"
    n_long = sql.value(steps.con, f"SELECT count(*) FROM {long}")
    if not n_long:
        return clicks
    before = steps.last.clicks
    clicks = steps.take("no crawlers", newest_clicks(clicks, longest), replaces=clicks)
    tell(
        f"{n_long:,} session(s) of more than {longest:,} clicks, as of a crawler: their oldest"
        f" {before - steps.last.clicks:,} clicks are left out (--max-session-length)"
    )
    return clicks


def _filter(clicks: str, rules: Rules, steps: _Steps) -> str:
    """Drop short sessions, rare items, then the sessions that became short; if asked, until none are."""

    def long_sessions(name: str, clicks: str) -> str:
        hint = f"--min-session-length is {rules.min_session_length}"
        return steps.take(
            name, drop_short_sessions(clicks, rules.min_session_length), replaces=clicks, hint=hint
        )

    def frequent_items(name: str, clicks: str) -> str:
        hint = f"--min-item-support is {rules.min_item_support}"
        return steps.take(name, drop_rare_items(clicks, rules.min_item_support), replaces=clicks, hint=hint)

    if rules.drop_repeats:
        clicks = steps.take("no repeats", drop_repeats(clicks), replaces=clicks)
    clicks = long_sessions("long sessions", clicks)
    for round_ in itertools.count(1):
        before = steps.last.clicks
        again = "" if round_ == 1 else f" {round_}"
        clicks = frequent_items(f"frequent items{again}", clicks)
        clicks = long_sessions(f"long sessions again{again}", clicks)
        if not rules.until_stable or steps.last.clicks == before:
            break
    return clicks


def _split(clicks: str, rules: Rules, by_day: bool, steps: _Steps) -> None:
    """Take the steps `train` and `test`."""
    first, last = steps.con.execute(f"SELECT min(time), max(time) FROM {clicks}").fetchall()[0]
    cutoff = last - round(rules.test_days * DAY)
    if by_day:
        cutoff += 1  # the day at the cutoff is one too many: N days end with the last one, all of it
    if rules.cut_straddling:
        train, test = split_cut(clicks, cutoff)
        train = drop_short_sessions(train, rules.min_session_length)
    else:
        train, test = split_whole(clicks, cutoff)
    hint = f"--test-days is {rules.test_days:g}, of the {(last - first) / DAY:.2g} days that the log is long"
    train = steps.take("train", train, hint=hint)
    test = steps.take("test all", test, replaces=clicks, hint=hint)
    test = steps.take("test known items", drop_unseen_items(test, train), replaces=test)
    steps.take("test", drop_short_sessions(test, rules.min_session_length), replaces=test)


def _options(
    rules: Rules, inputs: Sequence[LogFile], tests: Sequence[LogFile], log_format: LogFormat | None
) -> dict[str, bool | int | float | str | None]:
    """What was applied, for dataset.json."""
    applied = asdict(rules)
    if tests:
        applied = {name: applied[name] for name in ("gap_minutes", "validation")}
    if not (log_format and log_format.by_visitor):
        del applied["gap_minutes"]
    files = {"inputs": inputs, "tests": tests}
    return applied | {name: " ".join(file.name for file in paths) for name, paths in files.items()}


@contextmanager
def _built_aside(output: Path, force: bool) -> Iterator[Path]:
    """A directory beside `output` that takes its place when all went well, and is removed when not."""
    if output.exists():
        if not force:
            raise PrepareError(f"{output}: exists already: --force replaces it")
        if not (output / MANIFEST).is_file():
            raise PrepareError(f"{output}: exists already and is no data set: it is not replaced")
    output.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        yield directory
        directory.chmod(0o755)  # mkdtemp's directories are private
        if output.exists():
            shutil.rmtree(output)
        directory.replace(output)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def database(directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB that lives, and spills, in a directory that is gone afterwards."""
    work = directory / "duckdb"
    work.mkdir()
    threads = min(os.cpu_count() or 1, MAX_THREADS)
    con = sql.connect(memory_limit=MEMORY_LIMIT, temp_directory=str(work), threads=threads)
    try:
        yield con
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise PrepareError(f"there is not enough memory or disk: {str(error).splitlines()[0]}") from error
    finally:
        con.close()
        shutil.rmtree(work)
