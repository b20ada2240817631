"""Files as editors and shells of other systems write them."""

from __future__ import annotations

import msgspec
import pytest

from distredge.checked_reading import decode_json, decode_toml, lines_of
from distredge.errors import FileError


class Board(msgspec.Struct, forbid_unknown_fields=True):
    name: str


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_says_the_encoding_and_is_no_content(encoding: str) -> None:
    assert decode_json('{"name": "nänö"}'.encode(encoding), Board, "b.json", FileError) == Board("nänö")
    text = '{"name": "nänö"}'.encode(encoding).decode("utf-8" if encoding == "utf-8-sig" else encoding)
    assert decode_json(text, Board, "b.json", FileError) == Board("nänö")
    assert decode_toml('name = "nänö"\r\n'.encode(encoding), Board, "b.toml", FileError) == Board("nänö")
    assert list(lines_of("ä\r\n \r\n b\n".encode(encoding), "t", FileError)) == [(1, "ä"), (3, "b")]


@pytest.mark.parametrize(
    "content", [b"\xff", b"\xff\xfea", b'{"name": "\xe4"}', b"[" * 100_000, b"name = " + b"[" * 100_000]
)
def test_what_is_no_text_or_too_deep_is_named(content: bytes) -> None:
    with pytest.raises(FileError, match=r"b\.json: not JSON"):
        decode_json(content, Board, "b.json", FileError)
    with pytest.raises(FileError, match=r"b\.toml: not TOML"):
        decode_toml(content, Board, "b.toml", FileError)


def test_the_line_that_is_no_text_is_named() -> None:
    with pytest.raises(FileError, match="t: line 3001: not text"):
        list(lines_of(b"0123456789\n" * 3000 + b"\xff\n", "t", FileError))
