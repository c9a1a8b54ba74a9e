"""The data set as a whole: against the protocol computed plainly, and what happens when things go wrong."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.training import protocol
from training.__main__ import app
from training.data.formats import LogFormat, PrepareError, check_file
from training.data.prepare import Rules, prepare

DATASETS = Path(__file__).parents[3].parent / "shared" / "datasets"
CSV = LogFormat("session_id", "item_id", "timestamp", "seconds")
START = 1_700_000_000

Log = Sequence[tuple[str, str, float]]


def write_log(file: Path, log: Log, header: str = "session_id,item_id,timestamp") -> Path:
    file.write_text("".join(f"{line}\n" for line in (header, *(",".join(map(str, click)) for click in log))))
    return file


def generated_log(clicks: int = 4_000, days: int = 5) -> Log:
    """A log with rare items, short sessions, ties, repeats, and sessions that straddle midnight."""
    random = np.random.default_rng(1)
    begins = random.integers(0, days * protocol.DAY, clicks)
    log = []
    for _ in range(clicks):
        session = int(random.integers(clicks // 3))
        item = int(random.integers(40, 300) if random.random() < 0.35 else 40 * random.random() ** 2)
        time = START + int(begins[session]) + 60 * int(random.integers(300))
        log.append((f"s{session}", f"i{item}", time))
    return log


@pytest.mark.parametrize(
    ("rules", "options"),
    [
        (Rules(), {}),
        (Rules(drop_repeats=True), {"drop_repeats": True}),
        (Rules(until_stable=True, min_item_support=12), {"until_stable": True, "min_support": 12}),
        (Rules(cut_straddling=True, test_days=2), {"cut_straddling": True, "test_days": 2}),
        (Rules(min_session_length=4, test_days=0.5), {"min_length": 4, "test_days": 0.5}),
    ],
)
def test_a_generated_log_gives_what_the_protocol_says(
    tmp_path: Path, rules: Rules, options: dict[str, float]
) -> None:
    log = generated_log()
    info = prepare([write_log(tmp_path / "log.csv", log)], tmp_path / "data", log_format=CSV, rules=rules)
    expected = protocol.prepared(protocol.read(log), **options)  # type: ignore[arg-type]
    assert expected is not None
    assert protocol.found(tmp_path / "data") == expected
    assert info.counts["train_sessions"] == len(expected.train)
    assert info.counts["train_clicks"] == sum(map(len, expected.train))
    assert info.counts["test_sessions"] == len(expected.test)
    assert info.counts["test_clicks"] == sum(map(len, expected.test))
    assert info.n_items == len(expected.items)


def test_the_generated_log_exercises_every_rule() -> None:
    """Otherwise the test above would say less than it seems to."""
    sessions = protocol.read(generated_log())
    for options, others in (
        ({"drop_repeats": True}, {}),
        ({"until_stable": True, "min_support": 12}, {"min_support": 12}),
        ({"cut_straddling": True, "test_days": 2}, {"test_days": 2}),
        ({"min_length": 4}, {}),
        ({"min_support": 1}, {}),
    ):
        assert protocol.prepared(sessions, **options) != protocol.prepared(sessions, **others)  # type: ignore[arg-type]


clicks = st.tuples(
    st.sampled_from(["a", "b", "c", "d", "e", "f"]),
    st.sampled_from(["x", "y", "z", "w"]),
    st.sampled_from([START + hour * 3_600 for hour in (0, 0.5, 12, 23, 24, 25, 47, 48)]),
)


@settings(max_examples=10, deadline=None)
@given(log=st.lists(clicks, min_size=8, max_size=60), min_support=st.integers(1, 4))
def test_small_logs_give_what_the_protocol_says(
    tmp_path_factory: pytest.TempPathFactory, log: Log, min_support: int
) -> None:
    directory = tmp_path_factory.mktemp("small")
    file, output = write_log(directory / "log.csv", log), directory / "data"
    expected = protocol.prepared(protocol.read(log), min_support=min_support)
    rules = Rules(min_item_support=min_support)
    if expected is None:
        with pytest.raises(PrepareError):
            prepare([file], output, log_format=CSV, rules=rules)
        assert not output.exists()
    else:
        prepare([file], output, log_format=CSV, rules=rules)
        assert protocol.found(output) == expected


def test_the_same_log_gives_the_same_files(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.csv", generated_log())
    first, second = (prepare([file], tmp_path / name, log_format=CSV, name="x") for name in ("a", "b"))
    assert first == second


def test_a_visitor_log_is_cut_and_then_treated_alike(tmp_path: Path) -> None:
    log = [(f"v{int(session[1:]) % 300}", item, time) for session, item, time in generated_log()]
    by_visitor = LogFormat("session_id", "item_id", "timestamp", "seconds", by_visitor=True)
    file = write_log(tmp_path / "log.csv", log)
    prepare([file], tmp_path / "data", log_format=by_visitor, rules=Rules(gap_minutes=20))
    expected = protocol.prepared(protocol.cut(log, gap=20 * 60))
    assert protocol.found(tmp_path / "data") == expected
    assert expected != protocol.prepared(protocol.cut(log, gap=30 * 60))


def test_a_log_that_comes_split_is_taken_as_it_is(tmp_path: Path) -> None:
    """Nothing is filtered; a session id in both parts means two sessions; unseen items stay, as PAD."""
    train = [("a", "x", 10), ("a", "y", 11), ("b", "y", 5), ("c", "y", 20)]
    test = [("a", "x", 40), ("a", "new", 41), ("d", "new", 30)]
    prepare(
        [write_log(tmp_path / "train.csv", train)],
        tmp_path / "data",
        tests=[write_log(tmp_path / "test.csv", test)],
        log_format=CSV,
    )
    assert protocol.found(tmp_path / "data") == protocol.Outcome(
        train=[["y"], ["x", "y"], ["y"]], test=[[None], ["x", None]], items=["y", "x"], n_validation=1
    )


def test_text_with_one_session_a_line(tmp_path: Path) -> None:
    """Sessions keep the order of the lines, over several files; popularity ties go by the first click."""
    (tmp_path / "train.txt").write_text("7 5\n\n5 9 7 9\n")
    (tmp_path / "more.txt").write_text("3  7\r\n8 9")
    (tmp_path / "test.txt").write_text("9 4 7\n")
    info = prepare(
        [tmp_path / "train.txt", tmp_path / "more.txt"], tmp_path / "data", tests=[tmp_path / "test.txt"]
    )
    assert protocol.found(tmp_path / "data") == protocol.Outcome(
        train=[["7", "5"], ["5", "9", "7", "9"], ["3", "7"], ["8", "9"]],
        test=[["9", None, "7"]],
        items=["7", "9", "5", "3", "8"],
        n_validation=1,
    )
    assert info.counts["rejected"] == 0


def test_times_and_rows_order_the_clicks_of_a_session(tmp_path: Path) -> None:
    """Time first; of clicks at the same time, the one that stands first in the log."""
    log = [("a", "late", 9), ("a", "first", 5), ("a", "second", 5), ("b", "x", 7), ("c", "x", 1)]
    test = write_log(tmp_path / "test.csv", [("t", "x", 99)])
    prepare([write_log(tmp_path / "log.csv", log)], tmp_path / "data", tests=[test], log_format=CSV)
    assert protocol.found(tmp_path / "data").train == [["x"], ["x"], ["first", "second", "late"]]


@pytest.mark.skipif(not DATASETS.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize("presplit", [True, False])
def test_rsc15_gives_what_the_protocol_says(tmp_path: Path, presplit: bool) -> None:
    train, test = (
        DATASETS / f"rsc15_100k_timed/yoochoose-clicks-100k_{part}.txt" for part in ("train_full", "test")
    )
    logs: list[Log] = []
    for file in (train, test):
        with file.open() as stream:
            rows = list(csv.reader(stream, delimiter="\t"))[1:]
        logs.append([(session, item, float(time)) for session, item, time in rows])
    log_format = LogFormat("SessionId", "ItemId", "Time")
    if presplit:
        expected = protocol.outcome(protocol.read(logs[0]), protocol.read(logs[1]))
        info = prepare([train], tmp_path / "data", tests=[test], log_format=log_format)
        assert (info.counts["train_sessions"], info.counts["test_sessions"], info.n_items) == (
            17_794,
            3_416,
            2_933,
        )
    else:
        expected = protocol.prepared(protocol.read([*logs[0], *logs[1]]))
        prepare([train, test], tmp_path / "data", log_format=log_format)
    assert protocol.found(tmp_path / "data") == expected


@pytest.mark.skipif(not DATASETS.is_dir(), reason="the real data sets are not here")
def test_diginetica_gives_its_known_counts(tmp_path: Path) -> None:
    folder = DATASETS / "diginetica"
    known = json.loads((folder / "stats.json").read_text())
    info = prepare([folder / "train.txt"], tmp_path / "data", tests=[folder / "test.txt"])
    for count in ("train_sessions", "train_clicks", "test_sessions", "test_clicks"):
        assert info.counts[count] == known[count]
    assert info.n_items == known["items_train"]


# What may go wrong


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Run `python -m training prepare`: exit code, stdout, stderr."""
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


BAD_LINES = {
    "b,2": "malformed_row",
    "c,3,200,extra": "malformed_row",
    'd,"4"x,200': "malformed_row",
    ",5,500": "missing_session",
    "  ,5,500": "missing_session",
    "f,,600": "missing_item",
    f"g,{'x' * 257},600": "bad_item_id",
    "g,tab\tbed,600": "bad_item_id",
    "h,7,": "missing_time",
    "h,7,abc": "unparsable_time",
    "h,7,2024-01-01": "unparsable_time",
    "i,7,-1": "negative_time",
    "i,7,nan": "time_not_finite",
    "i,7,inf": "time_not_finite",
    "i,7,1700000000000": "time_out_of_range",
}


def test_bad_rows_are_counted_and_listed_with_their_lines(tmp_path: Path) -> None:
    good = [f"{session},{item},{time}" for session, item, time in generated_log()]
    lines = ["session_id,item_id,timestamp", *good[:10]]
    line_of = {}
    for n, bad in enumerate(BAD_LINES):
        lines += [bad, *good[10 + n : 11 + n]]
        line_of[bad] = len(lines) - 1
    lines += good[10 + len(BAD_LINES) :]
    other = tmp_path / "other.csv"
    other.write_text("session_id,item_id,timestamp\nz,1,1700000000\nz,,1700000000\n")
    (tmp_path / "log.csv").write_text("\n".join(lines))
    info = prepare([tmp_path / "log.csv", other], tmp_path / "data", log_format=CSV)

    with (tmp_path / "data" / "rejected.csv").open(newline="") as stream:
        listed = {(row["file"], int(row["line"])): row for row in csv.DictReader(stream)}
    assert len(listed) == len(BAD_LINES) + 1
    for bad, reason in BAD_LINES.items():
        row = listed[str(tmp_path / "log.csv"), line_of[bad]]
        assert (row["reason"], row["raw"]) == (reason, bad)
    assert listed[str(other), 3]["reason"] == "missing_item"

    reasons = [*BAD_LINES.values(), "missing_item"]
    assert info.counts["rejected"] == len(reasons)
    assert info.counts["rows"] == len(good) + 1 + len(reasons)
    for reason in reasons:
        assert info.counts[f"rejected_{reason}"] == reasons.count(reason)
    # The good rows are untouched.
    expected = protocol.prepared(protocol.read([*generated_log(), ("z", "1", 1_700_000_000)]))
    assert protocol.found(tmp_path / "data") == expected


def test_too_many_bad_rows_stop_it(tmp_path: Path) -> None:
    log = generated_log(clicks=1_000)
    bad = [("s", "", START)] * 20
    file, output = write_log(tmp_path / "log.csv", [*log, *bad]), tmp_path / "data"
    code, stdout, stderr = run("--input", file, "--output", output, "--max-rejected", "1.9%")
    assert (code, stdout) == (1, "")
    assert "20 of 1,020 rows, 1.96%" in stderr
    assert "missing_item 20" in stderr
    listed = tmp_path / "data.rejected.csv"
    assert listed.name in stderr
    assert len(listed.read_text().splitlines()) == 21
    assert sorted(os.listdir(tmp_path)) == ["data.rejected.csv", "log.csv"]
    assert run("--input", file, "--output", output, "--max-rejected", "0.02")[0] == 0


HEADER = "session_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        ("", "the file is empty"),
        (HEADER, "the log holds no click"),
        (
            "session_id,product,timestamp\na,x,1\n",
            "no column 'item_id', but 'session_id', 'product', 'timestamp'; name it with --item-column",
        ),
        ("session_id,item_id,timestamp,item_id\na,x,1,x\n", "more than one column is called 'item_id'"),
        (f"{HEADER}a,x,{START}\na,y,{START}\n", "a single session"),
        (f"{HEADER}a,x,{START}\nb,y,{START}\n", "--min-session-length is 2"),
        (f"{HEADER}a,x,{START}\na,y,{START}\nb,x,{START}\nb,y,{START}\n", "--min-item-support is 5"),
        (
            HEADER + "".join(f"{session},x,{START}\n" for session in "aabbccdd"),
            "--test-days is 1, of the 0 days",
        ),
        (f"{HEADER}a,x,12\nb,y,34\n", "say --time-format"),
        (f"{HEADER}a,x,{START}\nb,y,{START}000\n", "1 like seconds, 1 like milliseconds"),
        ("1 2 3\n", "give the test sessions as --test"),
    ],
)
def test_a_log_that_cannot_be_prepared_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "log.csv").write_text(content)
    code, stdout, stderr = run("--input", tmp_path / "log.csv", "--output", tmp_path / "data")
    assert (code, stdout) == (2, "")
    assert message in stderr
    assert "Traceback" not in stderr
    assert set(os.listdir(tmp_path)) <= {"log.csv"}


def _a_directory(place: Path) -> Path:
    (place / "logs").mkdir()
    return place / "logs"


def _a_path_below_a_file(place: Path) -> Path:
    (place / "log.csv").write_text(HEADER)
    return place / "log.csv" / "day" / "clicks.csv"


def _a_broken_link(place: Path) -> Path:
    (place / "newest.csv").symlink_to("gone.csv")
    return place / "newest.csv"


def _a_link_to_itself(place: Path) -> Path:
    (place / "log.csv").symlink_to("log.csv")
    return place / "log.csv"


def _a_pipe(place: Path) -> Path:
    os.mkfifo(place / "pipe")
    return place / "pipe"


@pytest.mark.parametrize("options", [(), ("--format", "csv")])
@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            _a_directory,
            "logs: is a directory without a log: name the files; what `collect` wrote is read with --format",
        ),
        (
            _a_path_below_a_file,
            "clicks.csv: there is no such file: {place}/log.csv is a file, not a directory",
        ),
        (_a_broken_link, "newest.csv: is a link to gone.csv, which does not exist"),
        (_a_link_to_itself, "log.csv: cannot be read: Too many levels of symbolic links"),
        (_a_pipe, "pipe: is a pipe or a device, and a log is read twice: write it to a file"),
        (lambda place: place / ("x" * 300), "xxx: cannot be read: File name too long"),
        (lambda _: "", ".: is a directory, which an empty name stands for, too: name the files"),
    ],
)
def test_an_input_that_is_no_readable_file_is_told_for_what_it_is(
    tmp_path: Path, made: Callable[[Path], Path | str], message: str, options: Sequence[str]
) -> None:
    code, stdout, stderr = run("--input", made(tmp_path), "--output", tmp_path / "data", *options)
    assert (code, stdout) == (2, "")
    assert message.format(place=tmp_path) in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "data").exists()


def test_a_file_that_may_not_be_read_is_refused() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own places are closed to others altogether
        file = Path(directory) / "log.csv"
        file.write_text(HEADER)
        file.chmod(0)
        Path(directory).chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:  # who may read anything
                os.seteuid(65534)
            with pytest.raises(PrepareError, match=r"log\.csv: cannot be read: Permission denied"):
                check_file(file)
        finally:
            os.seteuid(user)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_text("session_id,item_id,timestamp\n")
    code, _, stderr = run("--input", tmp_path / "log.parquet", "--output", tmp_path / "data")
    assert code == 2
    assert "log.parquet: cannot be read" in stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--test", "log.csv", "--min-item-support", "1"], "--min-item-support has no meaning with --test"),
        (["--visitor-column", "v", "--session-column", "s"], "--session-column contradicts --visitor-column"),
        (["--format", "yoochoose", "--item-column", "sku"], "--item-column is for --format csv"),
        (["--event", "addtocart"], "there is no column 'event_type'"),
        (["--format", "yoochoose", "--event", "view"], "--event is for logs that tell events"),
        (["--event-column", "kind"], "--event says which to keep"),
        (["--format", "sessions", "--nobody-alone"], "--nobody-alone has no meaning with one session a line"),
        (["--time-range", "yesterday"], "--time-range"),
        (["--encoding", "klingon"], "there is no such encoding"),
        (["--max-rejected", "many"], "--max-rejected"),
        (["--validation", "110%"], "--validation"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "log.csv", generated_log(clicks=100))
    code, _, stderr = run("--input", "log.csv", "--output", "data", *arguments)
    assert code == 2
    assert message in stderr
    assert os.listdir(tmp_path) == ["log.csv"]


def test_an_existing_data_set_is_replaced_only_if_asked_and_only_when_all_went_well(tmp_path: Path) -> None:
    good, bad = (
        write_log(tmp_path / "log.csv", generated_log()),
        write_log(tmp_path / "bad.csv", [("a", "", START)]),
    )
    output = tmp_path / "data"
    assert run("--input", good, "--output", output, "--json")[0] == 0
    first = protocol.found(output)
    code, _, stderr = run("--input", good, "--output", output)
    assert code == 2
    assert "--force replaces it" in stderr
    assert run("--input", bad, "--output", output, "--force")[0] == 1
    assert protocol.found(output) == first
    assert run("--input", good, "--output", output, "--force", "--drop-repeats")[0] == 0
    assert protocol.found(output) == protocol.prepared(protocol.read(generated_log()), drop_repeats=True)
    (tmp_path / "mine").mkdir()
    code, _, stderr = run("--input", good, "--output", tmp_path / "mine", "--force")
    assert code == 2
    assert "is no data set" in stderr


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.csv", generated_log())
    code, stdout, stderr = run("--input", file, "--output", tmp_path / "data", "--json", "--name", "shop")
    assert (code, stderr) == (0, "")
    printed = json.loads(stdout)
    assert printed["name"] == "shop"
    assert printed["counts"]["rows"] == 4_000
    assert printed["counts"]["train_sessions"] == len(protocol.found(tmp_path / "data").train)


def test_nothing_but_the_data_set_is_left_behind(tmp_path: Path) -> None:
    file = write_log(tmp_path / "log.csv", generated_log())
    assert run("--input", file, "--output", tmp_path / "new" / "data")[0] == 0
    assert os.listdir(tmp_path / "new") == ["data"]
    assert sorted(os.listdir(tmp_path / "new" / "data")) == [
        "dataset.json",
        "items.txt",
        "test.items.npy",
        "test.offsets.npy",
        "train.items.npy",
        "train.offsets.npy",
    ]


def test_a_crawler_keeps_its_newest_clicks_and_is_told_of(tmp_path: Path) -> None:
    start = 1_764_000_000
    lines = ["session_id,item_id,timestamp"]
    lines += [f"crawler,i{n % 7},{start + n}" for n in range(5_000)]
    lines += [f"s{n},i{place},{start + n + place}" for n in range(40) for place in range(4)]
    lines += [f"last{n},i{place},{start + 200_000 + n + place}" for n in range(5) for place in range(4)]
    (tmp_path / "log.csv").write_text("\n".join(lines))
    words: list[str] = []
    info = prepare([tmp_path / "log.csv"], tmp_path / "data", log_format=CSV, tell=words.append)
    assert words == [
        "1 session(s) of more than 500 clicks, as of a crawler: their oldest 4,500 clicks are left out"
        " (--max-session-length)"
    ]
    assert (info.counts["read_clicks"], info.counts["no_crawlers_clicks"]) == (5_180, 680)
    assert info.options["max_session_length"] == 500
    assert np.diff(np.load(tmp_path / "data" / "train.offsets.npy")).max() == 500
    rules = Rules(max_session_length=5_000)
    info = prepare([tmp_path / "log.csv"], tmp_path / "all", log_format=CSV, rules=rules)
    assert info.counts["train_clicks"] == 5_160
