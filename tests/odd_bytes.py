"""Documents that were sound before chance cut, swapped, doubled, filled or encoded them anew. Knows no format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

PIECES: tuple[bytes, ...] = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\xbd", "\u2028".encode(), "\x85".encode(), b"\r", b"\r\n", b"\n",
    b"\t", b"\x1b]0;title\x07", b"\x1b[2J\x1b[H", b"\x1b]52;c;aGVsbG8=\x07", b"\xc2\x9b31m", b"\x07", b"\x7f",
    b"\nkdnas: forged", "\u202edrow\u2066".encode(), "\u200b".encode(), "e\u0301".encode(), "\u2212".encode(),
    "²".encode(), "\U0001f600".encode(), b"9" * 5000, b"1e999", b"-1e999", b"9" * 25, b"-1", b"nan", b"inf", b"0x",
    b"0.1", b"true", b"null", b"[" * 3000, b'{"a":' * 3000, b"{" * 200, b"[[1]]", b"{}", b'""', b'"', b"'", b"\\",
    b"\\ud83d", b"\\u0000", b"=", b",", b":", b"#",
)  # fmt: skip
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "cp037")
Draw = Callable[[st.SearchStrategy[Any]], Any]


def mutated(originals: st.SearchStrategy[bytes], most: int = 6, pieces: Sequence[bytes] = PIECES) -> Any:
    """One of the originals after up to `most` changes; now and then none."""

    @st.composite
    def strategy(draw: Draw) -> bytes:
        raw: bytes = draw(originals)
        for _ in range(draw(st.integers(0, most))):
            raw = draw(st.sampled_from(CHANGES))(draw, raw, pieces)
        return raw

    return strategy()


def _range(draw: Draw, raw: bytes) -> tuple[int, int]:
    """A part of the document: some bytes, or whole lines."""
    start: int = draw(st.integers(0, len(raw)))
    if draw(st.booleans()):
        return start, min(len(raw), start + draw(st.integers(1, 40)))
    begin = raw.rfind(b"\n", 0, start) + 1
    end = raw.find(b"\n", start)
    return begin, len(raw) if end < 0 else end + 1


def _cut(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _range(draw, raw)
    return raw[:start] + raw[end:]


def _ended(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    return raw[: draw(st.integers(0, len(raw)))]


def _doubled(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _range(draw, raw)
    times: int = draw(st.sampled_from([1, 1, 1, 2, 50]))
    return raw[:end] + raw[start:end] * times + raw[end:]


def _swapped(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    (start, end), (other, until) = sorted([_range(draw, raw), _range(draw, raw)])
    if other < end:
        return raw
    return raw[:start] + raw[other:until] + raw[end:other] + raw[start:end] + raw[until:]


def _filled(draw: Draw, raw: bytes, pieces: Sequence[bytes]) -> bytes:
    place: int = draw(st.integers(0, len(raw)))
    return raw[:place] + draw(st.sampled_from(pieces) | st.binary(max_size=6)) + raw[place:]


def _written_over(draw: Draw, raw: bytes, pieces: Sequence[bytes]) -> bytes:
    start, end = _range(draw, raw)
    return raw[:start] + draw(st.sampled_from(pieces) | st.binary(max_size=6)) + raw[end:]


def _one_byte(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    if not raw:
        return raw
    place: int = draw(st.integers(0, len(raw) - 1))
    return raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]


def _value(draw: Draw, raw: bytes, pieces: Sequence[bytes]) -> bytes:
    """What stands behind a `=` or a `:` of a line becomes something else."""
    places = [place for place, letter in enumerate(raw[:20_000]) if letter in b"=:"]
    if not places:
        return raw
    place: int = draw(st.sampled_from(places))
    end = raw.find(b"\n", place)
    end = len(raw) if end < 0 else end
    return raw[: place + 1] + b" " + draw(st.sampled_from(pieces)) + raw[end:]


def _recoded(draw: Draw, raw: bytes, _: Sequence[bytes]) -> bytes:
    return raw.decode("utf-8", "replace").encode(draw(st.sampled_from(ENCODINGS)), "replace")


CHANGES = (
    _cut, _ended, _doubled, _doubled, _swapped, _filled, _filled, _written_over, _one_byte, _one_byte, _value, _value,
    _recoded,
)  # fmt: skip
