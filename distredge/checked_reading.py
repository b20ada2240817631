"""Checked reading of JSON and TOML: an error names the file, the field, what was found and what is accepted.

The file formats are `msgspec.Struct` classes; this module turns what msgspec finds wrong into the project's errors,
with the path of the field (dictionary keys included) and the closest accepted name for an unknown key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from distredge.errors import FileError, InputError, did_you_mean

T = TypeVar("T")

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`")
_EXPECTED = re.compile(r"Expected (?P<accepted>.*?)(?:, got (?P<got>.*))?$")


def read_bytes(path: str | Path, error: type[InputError] = FileError) -> bytes:
    """Returns a file's content, or raises `error` with a plain reason."""
    try:
        return Path(path).read_bytes()
    except OSError as reason:
        raise error(f"{path}: cannot be read: {reason.strerror or reason}") from None


def decode_json(text: bytes | str, kind: type[T], where: str | Path, error: type[InputError]) -> T:
    """Returns the object of type `kind` that a JSON text holds.

    Args:
        text: the JSON text.
        kind: a `msgspec.Struct` class.
        where: file or other origin, for the message.
        error: class of the error to raise.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as reason:
        raise error(f"{where}: not JSON: {reason}") from None
    return convert(value, kind, where, error)


def decode_toml(text: bytes, kind: type[T], where: str | Path, error: type[InputError]) -> T:
    """Returns the object of type `kind` that a TOML text holds; arguments as in `decode_json`."""
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        value = tomllib.loads(text.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as reason:
        raise error(f"{where}: not TOML: {reason}") from None
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


def _short(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
