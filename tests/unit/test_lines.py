"""Lines in: every line of the input is given, counted or faulted, whatever the file is made of."""

import bz2
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner import record
from runner.errors import BadInput, LineFault
from runner.files import LineReader, Stamp

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# A busy machine is no fault of the code.
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MIB = 2**20
PACK = {"gzip": gzip.compress, "bzip2": bz2.compress, "zstd": zstd.compress}
ROW = b'{"id":%d,"text":"some words"}\n'


class Trickle(io.RawIOBase):
    """A stream that gives its parts one by one, as a pipe does."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = iter([part for part in parts if part])

    def read(self, size: int = -1) -> bytes:
        part = next(self._parts, b"")
        if len(part) > size >= 0:
            self._parts = itertools.chain([part[size:]], self._parts)
        return part[:size]


def read(data: bytes | list[bytes], **options: int) -> tuple[list[tuple[int, bytes, str | None]], LineReader]:
    stream = io.BytesIO(data) if isinstance(data, bytes) else Trickle(data)
    with LineReader(None, stream=stream, **options) as reader:
        return [(number, line, fault and fault.code) for number, line, fault in reader], reader


def good(data: bytes) -> list[tuple[int, bytes, None]]:
    return [(number, line, None) for number, line in enumerate(data.removesuffix(b"\n").split(b"\n"), 1)]


def test_a_file_is_read_with_its_numbers(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    data = b'{"a":1}\n\n  \t\r\n{"b":2}\r\n{"c":3}'
    path.write_bytes(data)
    with LineReader(path) as reader:
        assert list(reader) == [(1, b'{"a":1}', None), (4, b'{"b":2}', None), (5, b'{"c":3}', None)]
    assert (reader.blank, reader.bytes_read, reader.kind) == (2, len(data), "plain")
    assert reader.sha256 == hashlib.sha256(data).hexdigest()
    assert reader.stamp == Stamp.of(path)
    assert not reader.changed()


@given(
    st.lists(
        st.sampled_from([b'{"a":1}', b'{"b":"\xc3\xa9"}', b"", b"  ", b"\r", b'{"c":3}\r', b"x" * 40]),
        max_size=12,
    ),
    st.booleans(),
    st.lists(st.integers(1, 9), min_size=1, max_size=40),
)
@settings(CALM, max_examples=200)
def test_pieces_of_any_size_give_the_same_lines(lines: list[bytes], ended: bool, sizes: list[int]) -> None:
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    bounds = [0, *itertools.accumulate(sizes), len(data)]
    parts = [data[a:b] for a, b in itertools.pairwise(bounds)]
    rows, reader = read(parts)
    physical = data.split(b"\n")
    expected = [(n, line.removesuffix(b"\r"), None) for n, line in enumerate(physical, 1) if line.strip()]
    assert rows == expected
    assert len(rows) + reader.blank == len(physical) - (physical[-1] == b"")
    assert reader.sha256 == hashlib.sha256(data).hexdigest()


def test_lines_across_the_reading_buffer() -> None:
    source = random.Random(7)
    lines = [b'{"t":"' + b"x" * source.randrange(300_000) + b'"}' for _ in range(30)]
    rows, _ = read(b"\n".join(lines))
    assert [line for _, line, _ in rows] == lines


def test_every_code_point_stays_on_its_line() -> None:
    points = [
        chr(n) for n in itertools.chain(range(0x20, 0xD800), range(0xE000, 0x110000)) if n not in (0x22, 0x5C)
    ]
    groups = ["".join(points[n : n + 64]) for n in range(0, len(points), 64)]
    data = "".join(f'{{"t":"{group}"}}\n' for group in groups).encode()
    rows, _ = read(data)
    assert [record.parse(line)["t"] for _, line, _ in rows] == groups
    outputs = [record.keep_fields(line, None, b'"result":null') for _, line, _ in rows]
    again, _ = read(b"\n".join(outputs))
    assert [record.parse(line)["t"] for _, line, _ in again] == groups


def test_separators_of_other_systems_end_no_line() -> None:
    text = "\x85\u2028\u2029"
    data = json.dumps({"t": text}, ensure_ascii=False).encode()
    assert read(data)[0] == [(1, data, None)]
    rows, _ = read(b'{"t":"\x0b\x0c\x1c\x1d\x1e"}')
    assert len(rows) == 1


def test_a_lone_carriage_return_ends_no_line() -> None:
    assert read(b'{"a":\r1}\n{"b":2}')[0] == [(1, b'{"a":\r1}', None), (2, b'{"b":2}', None)]
    assert record.parse(b'{"a":\r1}') == {"a": 1}


def test_byte_order_marks() -> None:
    mark = b"\xef\xbb\xbf"
    rows, reader = read(mark + b'{"a":1}\n' + mark + b'{"b":2}\n{"c":3}\n')
    assert rows == [(1, b'{"a":1}', None), (2, mark + b'{"b":2}', "byte_order_mark"), (3, b'{"c":3}', None)]
    assert reader.sha256 == hashlib.sha256(mark + b'{"a":1}\n' + mark + b'{"b":2}\n{"c":3}\n').hexdigest()
    assert read([b"\xef", b"\xbb", b"\xbf", b"{}"])[0] == [(1, b"{}", None)]
    assert read(mark)[0] == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_wide_text_is_one_clear_fault(encoding: str) -> None:
    for text in ('{"name": "Zoë", "text": "日本語"}\n' * 50, "{}", '{"a":1}'):
        stream = io.BytesIO(text.encode(encoding))
        with LineReader(None, stream=stream) as reader:
            ((number, _, fault),) = list(reader)
        assert (number, fault.code) == (1, "encoding")
        assert f"looks like {encoding[:6].upper()}" in fault.message


def test_other_encodings_are_faults_of_their_lines() -> None:
    rows, _ = read(b'{"a":"\xe9"}\n{"a":"\x00"}\n{"a":1}\n')
    assert [fault for _, _, fault in rows] == [None] * 3
    codes = []
    for _, line, _ in rows[:2]:
        with pytest.raises(record.RecordFault) as caught:
            record.parse(line)
        codes.append((caught.value.code, caught.value.offset))
    assert codes == [("invalid_utf8", 6), ("control_character", 6)]


def test_zeros_at_the_end_are_not_dropped() -> None:
    """What a power cut can leave of a file that was growing."""
    rows, _ = read(b'{"a":1}\n' * 20 + bytes(4096))
    assert rows[-1] == (21, bytes(4096), None)
    assert read(bytes(100))[0] == [(1, bytes(100), None)]


@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("ended", [True, False])
def test_long_lines_are_faults_and_the_rest_goes_on(size: int, step: int, ended: bool) -> None:
    data = b'{"a": 123}\n' + b"x" * size + b"\n{}\n" + b"y" * size + (b"\n" if ended else b"")
    rows, _ = read([data[n : n + step] for n in range(0, len(data), step)], max_line=10)
    long = size > 10
    assert rows == [
        (1, b'{"a": 123}', None),
        (2, b"" if long else b"x" * size, "line_too_long" if long else None),
        (3, b"{}", None),
        (4, b"" if long else b"y" * size, "line_too_long" if long else None),
    ]


def test_a_line_without_end_takes_no_memory() -> None:
    block = b"x" * 65536
    stream = Trickle([*itertools.repeat(block, 800), b"\n", b'{"a":1}\n'])
    tracemalloc.start()
    try:
        with LineReader(None, stream=stream, max_line=MIB) as reader:
            rows = list(reader)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [(number, fault and fault.code) for number, _, fault in rows] == [(1, "line_too_long"), (2, None)]
    assert reader.bytes_read > 50 * MIB
    assert peak < 3 * MIB


def test_memory_does_not_grow_with_the_file() -> None:
    row = ROW % 1 * 2000
    peaks = []
    for blocks in (40, 400):
        stream = Trickle([row] * blocks)
        tracemalloc.start()
        with LineReader(None, stream=stream) as reader:
            assert sum(1 for _ in reader) == 2000 * blocks
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


def test_a_file_cut_at_any_byte_drops_no_line() -> None:
    data = b"".join(ROW % n for n in range(20))
    whole = data.removesuffix(b"\n").split(b"\n")
    for end in range(len(data) + 1):
        rows, reader = read(data[:end])
        physical = data[:end].count(b"\n") + (end > 0 and data[end - 1 : end] != b"\n")
        assert len(rows) + reader.blank == physical
        for number, line, fault in rows:
            assert fault is None
            if line != whole[number - 1]:
                assert number == len(rows)
                with pytest.raises(record.RecordFault):
                    record.parse(line)


@pytest.mark.parametrize("kind", PACK)
def test_a_compressed_file_cut_at_any_byte_is_known(kind: str) -> None:
    data = b"".join(ROW % n for n in range(20))
    packed = PACK[kind](data)
    for end in range(4, len(packed)):
        rows, reader = read(packed[:end])
        assert reader.kind == kind
        assert rows[-1][2] == "truncated_file"
        assert rows[-1][0] == len(rows)
        assert rows[:-1] == good(data)[: len(rows) - 1]
        assert data.startswith(b"\n".join(line for _, line, _ in rows))
    assert read(packed)[0] == good(data)


@pytest.mark.parametrize("kind", PACK)
def test_compressed_files_of_several_members(kind: str, tmp_path: Path) -> None:
    source = random.Random(3)
    data = b"".join(ROW % source.randrange(10**9) for _ in range(60_000))
    cut = data.index(b"words", MIB)
    packed = PACK[kind](data[:cut]) + PACK[kind](b"") + PACK[kind](data[cut:])
    path = tmp_path / "wrong.name"
    path.write_bytes(packed)
    with LineReader(path) as reader:
        assert [(n, line, None) for n, line, _ in reader] == good(data)
    assert reader.kind == kind
    assert reader.sha256 == hashlib.sha256(packed).hexdigest()
    assert reader.bytes_read == len(packed)
    assert read([packed[n : n + 999] for n in range(0, len(packed), 999)])[0] == good(data)


@pytest.mark.parametrize("kind", PACK)
def test_damage_inside_a_compressed_file_is_a_fault(kind: str) -> None:
    source = random.Random(5)
    data = b"".join(b'{"n":"%s"}\n' % source.randbytes(30).hex().encode() for _ in range(40_000))
    options = {zstd.CompressionParameter.checksum_flag: 1}
    packed = bytearray(zstd.compress(data, options=options) if kind == "zstd" else PACK[kind](data))
    packed[-3 if kind == "gzip" else len(packed) // 2] ^= 0x10
    rows, _ = read(bytes(packed))
    assert rows[-1][2] == "truncated_file"
    assert [number for number, _, _ in rows] == list(range(1, len(rows) + 1))
    if kind != "zstd":  # its checksum comes at the end of a frame, after the lines
        assert rows[:-1] == good(data)[: len(rows) - 1]


def test_marks_and_padding_in_compressed_files() -> None:
    assert read(gzip.compress(b"\xef\xbb\xbf{}\n") + bytes(100_000))[0] == [(1, b"{}", None)]
    assert read(gzip.compress(b"{}\n") + bytes(100) + gzip.compress(b'{"a":1}'))[0] == good(b'{}\n{"a":1}')
    assert read(gzip.compress(b"{}\n") + b"garbage")[0] == [(1, b"{}", None), (2, b"", "truncated_file")]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert read(skippable + zstd.compress(b"{}\n"))[0] == [(1, b"{}", None)]
    assert read(gzip.compress("{}".encode("utf-16")))[0][0][2] == "encoding"
    assert read(gzip.compress(b""))[0] == []


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_stopped(kind: str) -> None:
    packed = PACK[kind](bytes(10 * MIB)) * 10
    tracemalloc.start()
    rows, _ = read(packed, max_line=MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [(n, code) for n, _, code in rows] == [(1, "bomb")]
    assert peak < 12 * MIB


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\xfd7zXZ\x00", b"PAR1"])
def test_other_formats_are_named(head: bytes) -> None:
    assert read(head + bytes(range(200)))[0][0][::2] == (1, "unsupported_file")


def test_nothing_to_read() -> None:
    assert read(b"")[0] == []
    rows, reader = read(b"\n \n\t\r\n")
    assert (rows, reader.blank) == ([], 3)


@pytest.mark.parametrize("kind", ["plain", *PACK])
def test_a_limit_stops_early(kind: str) -> None:
    data = b"".join(ROW % n + b"\n" for n in range(50_000))
    packed = PACK[kind](data) if kind != "plain" else data
    rows, reader = read(packed, limit=3)
    assert rows == [(1 + 2 * n, (ROW % n).rstrip(), None) for n in range(3)]
    assert reader.sha256 == hashlib.sha256(b"".join(ROW % n for n in range(3))).hexdigest()
    assert reader.bytes_read < len(packed) or kind in ("bzip2", "zstd")
    assert read(packed, limit=0)[0] == []


def test_a_limit_does_not_wait_for_more_than_it_needs() -> None:
    reading, writing = os.pipe()
    os.write(writing, ROW % 1 + ROW % 2 + ROW % 3)
    with os.fdopen(reading, "rb") as stream, LineReader(None, stream=stream, limit=2) as reader:
        assert len(list(reader)) == 2
    os.close(writing)


def test_a_named_pipe_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b'{"a":1}\n{"b":2}',))
    writer.start()
    with LineReader(path) as reader:
        assert [number for number, _, _ in reader] == [1, 2]
    writer.join()
    assert reader.stamp is None
    assert not reader.changed()


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def change(how: str) -> bool:
        path.write_bytes(ROW % 1)
        os.utime(path, ns=(0, 0))
        with LineReader(path) as reader:
            assert not reader.changed()
            if how == "grow":
                with path.open("ab") as file:
                    file.write(b"x")
                os.utime(path, ns=(0, 0))
            elif how == "touch":
                os.utime(path, ns=(0, 1))
            elif how == "replace":
                other = tmp_path / "other"
                other.write_bytes(ROW % 2)
                os.utime(other, ns=(0, 0))
                other.replace(path)
            elif how == "remove":
                path.unlink()
            return reader.changed()

    assert [change(how) for how in ("grow", "touch", "replace", "remove", "nothing")] == [True] * 4 + [False]


def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, said in [
        (tmp_path, "folder"),
        (Path("/dev/null"), "device"),
        (tmp_path / "none.jsonl", "no such file"),
        (tmp_path / ("x" * 300), "cannot be opened"),
        (tmp_path / "a\0b", "cannot be opened"),
    ]:
        with pytest.raises(BadInput, match=said) as caught, LineReader(path):
            pass
        assert str(path) in str(caught.value)

    def deny(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "rows.jsonl"
    path.touch()
    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(BadInput, match="no permission"), LineReader(path):
        pass


def test_a_read_error_stops_the_reading() -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(BadInput, match="standard input: cannot be read further: Input/output error"):
        list(LineReader(None, stream=Failing()))


def test_a_reader_needs_one_source() -> None:
    with pytest.raises(ValueError):
        LineReader(None)
    with pytest.raises(ValueError):
        LineReader(Path("x"), stream=io.BytesIO())
    with pytest.raises(ValueError):
        list(LineReader(Path("x")))


def test_faults_say_what_to_do() -> None:
    with LineReader(None, stream=io.BytesIO(b"x" * 100), max_line=10) as reader:
        (row,) = list(reader)
    assert row[2] == LineFault(
        1, "line_too_long", "the line is longer than 10 bytes; raise --max-line if it is meant to be"
    )
