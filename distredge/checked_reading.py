"""Checked reading of JSON, TOML and lines: an error names the file, the field, what was found and what is accepted.

The file formats are `msgspec.Struct` classes; this module turns what msgspec finds wrong into the project's errors,
with the path of the field (dictionary keys included) and the closest accepted name for an unknown key.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from distredge.errors import FileError, InputError, did_you_mean

T = TypeVar("T")

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_EXPECTED = re.compile(r"Expected (?P<accepted>.*?)(?:, got (?P<got>.*))?$")


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_bytes(path: str | Path, error: type[InputError] = FileError, limit_bytes: int | None = None) -> bytes:
    """Returns a file's content, or raises `error` with a plain reason, also where it is longer than `limit_bytes`."""
    try:
        if limit_bytes is None:
            return Path(path).read_bytes()
        with Path(path).open("rb") as stream:
            content = stream.read(limit_bytes + 1)
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from None
    except ValueError as reason:  # a name with a NUL
        raise error(f"{path!r}: cannot be read: {reason}") from None
    if len(content) > limit_bytes:
        raise error(f"{path}: found more than {limit_bytes >> 20} MiB, accepted: at most that")
    return content


def encoding_of(content: bytes) -> str:
    """Returns the encoding that a byte order mark declares (Windows' editors and shells write them), else UTF-8."""
    return next((encoding for mark, encoding in _MARKS if content.startswith(mark)), "utf-8")


def lines_of(content: bytes, where: str | Path, error: type[InputError]) -> Iterator[tuple[int, str]]:
    """Yields the lines of a text that are not blank, with their numbers from 1; any of CR, LF and CRLF ends one."""
    text = io.TextIOWrapper(io.BytesIO(content), encoding_of(content), newline=None)
    try:
        for number, line in enumerate(text, 1):
            if stripped := line.strip():
                yield number, stripped
    except UnicodeError as reason:
        # The reader decodes ahead of the lines that it gives, so the place is sought in the whole.
        raise error(f"{where}: line {_undecodable_line(content)}: not text: {reason}") from None


def _undecodable_line(content: bytes) -> int:
    try:
        content.decode(encoding_of(content))
    except UnicodeDecodeError as reason:
        return content.count(b"\n", 0, reason.start) + 1
    except UnicodeError:
        pass
    return content.count(b"\n") + 1


def decode_json(text: bytes | str, kind: type[T], where: str | Path, error: type[InputError]) -> T:
    """Returns the object of type `kind` that a JSON text holds.

    Args:
        text: the JSON text.
        kind: a `msgspec.Struct` class.
        where: file or other origin, for the message.
        error: class of the error to raise.
    """
    try:
        text = text if isinstance(text, str) else text.decode(encoding_of(text))
        value = msgspec.json.decode(text.removeprefix("\ufeff"))
    except (msgspec.DecodeError, UnicodeError) as reason:
        raise error(f"{where}: not JSON: {reason}") from None
    except RecursionError:
        raise error(f"{where}: not JSON of ours: lists or objects that are nested too deeply") from None
    return convert(value, kind, where, error)


def decode_toml(text: bytes, kind: type[T], where: str | Path, error: type[InputError]) -> T:
    """Returns the object of type `kind` that a TOML text holds; arguments as in `decode_json`."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        value = tomllib.loads(text.decode(encoding_of(text)))
    except (tomllib.TOMLDecodeError, UnicodeError) as reason:
        raise error(f"{where}: not TOML: {reason}") from None
    except RecursionError:
        raise error(f"{where}: not TOML of ours: lists or tables that are nested too deeply") from None
    return convert(value, kind, where, error)


def convert(value: Any, kind: type[T], where: str | Path, error: type[InputError]) -> T:
    """Returns `value` (dictionaries, lists, plain values) as an object of type `kind`, checked."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as reason:
        raise error(_explain(str(reason), value, kind, where)) from None


def _explain(reason: str, value: Any, kind: Any, where: str | Path) -> str:
    message, _, path = reason.partition(" - at `$")
    steps = _steps(path.rstrip("`"), value, kind, message)
    field = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
    found = _lookup(value, steps)
    unknown = _UNKNOWN_FIELD.match(message)
    if unknown:
        name = unknown["name"]
        place = f"{field}.{name}" if field else name
        return f"{where}: {place}: unknown key{did_you_mean(name, _fields(kind, steps))}"
    place = f"{where}: {field}" if field else str(where)
    missing = re.match(r"Object missing required field `(.*)`", message)
    if missing:
        return f"{place}: the key '{missing[1]}' is missing"
    expected = _EXPECTED.match(message)
    if expected:
        return f"{place}: found {_short(found)}, accepted: {expected['accepted'].replace('`', '')}"
    invalid = re.match(r"Invalid (?:enum )?value (.*)", message)
    if invalid:
        return f"{place}: found {_short(found)}, accepted: {_choices(kind, steps)}"
    return f"{place}: {message}"


def shortened(text: str) -> str:
    """Returns a text for a message: of what is long, the beginning."""
    return text if len(text) <= 60 else f"{text[:57]}..."


def _short(found: Any) -> str:
    return shortened(repr(found))


def _steps(path: str, value: Any, kind: Any, message: str) -> list[str | int]:
    """Field names, list indices and dictionary keys on the way; msgspec writes a dictionary's key as `[...]`."""
    steps: list[str | int] = []
    for name, index in re.findall(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]", path):
        if name:
            steps.append(name)
        elif index == "...":
            steps.append(_guilty_key(_lookup(value, steps), _kind_at(kind, steps), message))
        else:
            steps.append(int(index))
    return steps


def _guilty_key(table: Any, kind: Any, message: str) -> str:
    args: list[Any] = list(getattr(kind, "__args__", ()))
    for key, item in table.items() if isinstance(table, Mapping) and len(args) == 2 else ():
        try:
            msgspec.convert(item, args[-1])
        except msgspec.ValidationError as reason:
            if str(reason).partition(" - at")[0] == message:
                return str(key)
    return "..."


def _kind_at(kind: Any, steps: Sequence[str | int]) -> Any:
    import typing

    for step in steps:
        kind = _without_none(kind)
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            kind = typing.get_type_hints(kind).get(str(step))
        else:
            args: list[Any] = list(getattr(kind, "__args__", ()))
            kind = (args[0] if isinstance(step, int) else args[-1]) if args else None
    return _without_none(kind)


def _without_none(kind: Any) -> Any:
    every: list[Any] = list(getattr(kind, "__args__", ()))
    args = [a for a in every if a is not type(None)]
    return args[0] if len(args) == 1 and len(every) == 2 else kind


def _fields(kind: Any, steps: Sequence[str | int]) -> tuple[str, ...]:
    return tuple(getattr(_kind_at(kind, steps), "__struct_encode_fields__", ()))


def _choices(kind: Any, steps: Sequence[str | int]) -> str:
    return " or ".join(repr(a) for a in getattr(_kind_at(kind, steps), "__args__", ())) or "another value"


def _lookup(value: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, Sequence) and isinstance(step, int) and step < len(value):
            value = value[step]
        else:
            return None
    return value
