"""Ingest: a row for each line, the same rows each time, and no more memory for more lines."""

import gzip
import io
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scene import Scene, request_line, request_lines

from runner.errors import Interrupted
from runner.files import LineReader
from runner.ingest import Ingested, InputChanged, ingest
from runner.question import Questions
from runner.store import rows, runs
from runner.store.database import Store


@pytest.fixture
def scene(store: Store) -> Scene:
    return Scene(store, [])


def read(
    scene: Scene,
    reader: LineReader,
    *,
    stopping: Callable[[], bool] = lambda: False,
    told: Callable[[int], None] = lambda count: None,
    dedupe: bool = False,
) -> Ingested:
    with reader:
        return ingest(
            scene.store,
            scene.tenure,
            scene.run,
            reader,
            Questions(scene.job),
            dedupe=dedupe,
            stopping=stopping,
            told=told,
        )


def of_bytes(data: bytes) -> LineReader:
    return LineReader(None, stream=io.BytesIO(data))


def table(scene: Scene) -> list[tuple[object, ...]]:
    return scene.query("SELECT * FROM row ORDER BY id")


def test_what_came_in_is_counted_and_kept_with_the_run(scene: Scene) -> None:
    data = b"\n".join([*request_lines(3), b"", b"oops", b"  "]) + b"\n"
    got = read(scene, of_bytes(data))

    assert (got.rows, got.invalid, got.blank) == (4, 1, 2)
    with scene.store.read() as connection:
        run = runs.get(connection, scene.run.id)
    assert (run.rows_in, run.rows_invalid, run.lines_blank) == (4, 1, 2)
    assert run.fingerprint == got.fingerprint
    assert got.fingerprint.size is None
    assert got.fingerprint.sha256 is not None


def test_reading_twice_gives_the_same_rows(scene: Scene) -> None:
    data = b"\n".join(
        [*request_lines(20), request_line("r3", "again"), b"{", request_line("x", "question 1")]
    )
    read(scene, of_bytes(data))
    first = table(scene)
    read(scene, of_bytes(data))
    assert table(scene) == first


def test_what_an_earlier_reading_left_is_gone(scene: Scene) -> None:
    read(scene, of_bytes(b"\n".join(request_lines(9000))))
    read(scene, of_bytes(b"\n".join(request_lines(3))))
    assert len(table(scene)) == 3


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_the_size_of_the_chunks_does_not_show(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    data = b"\n".join([*request_lines(20), request_line("r3", "question 3"), b"["])
    read(scene, of_bytes(data))
    whole = table(scene)
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", chunk)
    read(scene, of_bytes(data))
    assert table(scene) == whole


def test_who_listens_hears_the_count_after_each_chunk(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", 4)
    told: list[int] = []
    read(scene, of_bytes(b"\n".join(request_lines(10))), told=told.append)
    assert told == [4, 8, 10]


def test_large_rows_make_small_chunks(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.ingest.CHUNK_BYTES", 1000)
    told: list[int] = []
    read(scene, of_bytes(b"\n".join(request_line(f"r{n}", "x" * 600) for n in range(6))), told=told.append)
    assert told == [2, 4, 6]


def test_a_stop_between_chunks_is_obeyed_and_the_next_start_reads_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", 4)
    answers = iter([False, True])
    with pytest.raises(Interrupted, match="the same command starts again"):
        read(scene, of_bytes(b"\n".join(request_lines(100))), stopping=lambda: next(answers))
    assert len(table(scene)) == 8

    read(scene, of_bytes(b"\n".join(request_lines(100))))
    assert len(table(scene)) == 100


def test_an_input_that_grows_while_it_is_read_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(request_lines(3)))

    def grow(_count: int) -> None:
        with path.open("ab") as file:
            file.write(b"\n" + request_line("late"))

    with pytest.raises(InputChanged, match="changed while it was read"):
        read(scene, LineReader(path), told=grow)


def test_a_file_leaves_its_stamp(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(request_lines(3)))
    got = read(scene, LineReader(path))

    status = path.stat()
    assert (got.fingerprint.size, got.fingerprint.mtime_ns, got.fingerprint.inode) == (
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
    )


def test_a_packed_file_gives_the_rows_of_the_plain_one(scene: Scene, tmp_path: Path) -> None:
    data = b"\n".join(request_lines(50))
    read(scene, of_bytes(data))
    plain = table(scene)
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(data))
    read(scene, LineReader(tmp_path / "in.jsonl.gz"))
    assert table(scene) == plain


def test_repeated_keys_count_as_invalid_once(scene: Scene) -> None:
    got = read(scene, of_bytes(b"\n".join([request_line("a", "1")] * 3 + [b'{"custom_id": "a"}'])))
    assert (got.rows, got.invalid) == (4, 3)
    with scene.store.read() as connection:
        assert [one.code for one in rows.faults(connection, scene.run.id) if one.line < 4] == [
            "duplicate_key"
        ] * 2


def test_a_line_too_long_is_a_row_of_its_own(scene: Scene) -> None:
    data = b"\n".join([request_line("a"), request_line("b", "x" * 500), request_line("c")])
    got = read(scene, LineReader(None, stream=io.BytesIO(data), max_line=300))

    assert (got.rows, got.invalid) == (3, 1)
    assert [key for (key,) in scene.query("SELECT key FROM row ORDER BY id")] == ["a", None, "c"]


class Endless:
    """So many request lines, made as they are read."""

    def __init__(self, count: int) -> None:
        self._lines: Iterator[bytes] = (request_line(f"r{n}", f"text {n}" * 20) + b"\n" for n in range(count))

    def read(self, size: int = -1) -> bytes:
        taken = []
        while size > 0 and (line := next(self._lines, None)):
            taken.append(line)
            size -= len(line)
        return b"".join(taken)


def test_memory_does_not_grow_with_the_input(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner.ingest.CHUNK_ROWS", 200)
    monkeypatch.setattr("runner.files.lines._READ", 2**14)
    peaks = []
    for count in (1_000, 5_000):
        tracemalloc.start()
        read(scene, LineReader(None, stream=Endless(count)))  # type: ignore[arg-type]
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 500_000
