"""Records into JSON and back. A record is a frozen dataclass that holds a result. No torch here.

Fields may be numbers, texts, None, Literals, lists, tuples, dicts with texts as keys, unions of
these, and other records. What is read is checked: a missing, unknown or ill-typed field is one line
that says where it stands. The outermost object names the format's version.
"""

import dataclasses
import json
import typing
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union

from pelap.core.errors import DataError, PelapError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FORMAT_VERSION = 1
"""Of what is written; a file that names none is read as version 1."""
VERSION_FIELD = "format_version"
OPTIONAL = {"optional": True}
"""Metadata of a field that stands in the JSON only where it is not None."""
Record = TypeVar("Record", bound="DataclassInstance")


class _MismatchError(Exception):
    """What does not fit, in one line."""


def to_json_dict(record: "DataclassInstance") -> dict[str, Any]:
    """The record as nested plain values, with the format's version."""
    return {VERSION_FIELD: FORMAT_VERSION, **_plain(record)}


def to_json(record: "DataclassInstance", indent: int | None = None) -> str:
    """The record as JSON text that ends with a newline; indented as for `json.dumps`."""
    return json.dumps(to_json_dict(record), indent=indent) + "\n"


def from_json_dict(
    kind: type[Record], values: object, where: str, error: type[PelapError] = DataError
) -> Record:
    """The record that `to_json_dict` made these values of.

    Args:
        kind: Class of the record.
        values: As `json.loads` gives them.
        where: What errors begin with, e.g. the file.
        error: Class of the errors.

    Raises:
        PelapError: Of class `error`, if a field is missing, unknown or ill-typed, or the format is
            newer than this pelap.
    """
    try:
        if isinstance(values, dict):
            values = dict(values)
            _check_version(values.pop(VERSION_FIELD, 1), where)
        return _read_record(kind, values, where)
    except _MismatchError as mismatch:
        raise error(str(mismatch)) from None


def read_record(
    kind: type[Record],
    path: Path,
    error: type[PelapError] = DataError,
    *,
    allow_nan: bool = True,
) -> Record:
    """The record in a JSON file; where `allow_nan` is off, one that holds no NaN.

    Raises:
        OSError: If the file cannot be read.
        PelapError: Of class `error`, if it is not JSON, or as in `from_json_dict`.
    """
    try:
        values = json.loads(path.read_text(), parse_constant=None if allow_nan else _refuse_nan)
    except (ValueError, RecursionError) as reason:
        raise error(f"{path} is not JSON: {reason}.") from reason
    return from_json_dict(kind, values, str(path), error)


def _refuse_nan(name: str) -> float:
    if name == "NaN":
        raise ValueError("it holds NaN")
    return float(name)


def _check_version(version: object, where: str) -> None:
    if not _is_number(version, int) or version < 1:  # type: ignore[operator]
        raise _MismatchError(f"{where}: {VERSION_FIELD} is {version!r}, which is not a version.")
    if version > FORMAT_VERSION:  # type: ignore[operator]
        raise _MismatchError(
            f"{where} has format version {version}: this pelap reads up to {FORMAT_VERSION}, "
            "update it."
        )


def _plain(value: object) -> Any:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _plain(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("optional") and getattr(value, field.name) is None)
        }
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_record(kind: type[Record], values: object, where: str) -> Record:
    if not isinstance(values, dict):
        raise _MismatchError(f"{where} should hold a JSON object, found {type(values).__name__}.")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise _MismatchError(
            f"{where} has the unknown field {unknown[0]!r}: known are {', '.join(fields)}."
        )
    for name, field in fields.items():
        has_default = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if name not in values and not has_default:
            raise _MismatchError(f"{where} lacks the field {name!r}.")
    hints = _hints(kind)
    return kind(**{name: _read(values[name], hints[name], where, name) for name in values})


def _read(value: Any, hint: Any, where: str, name: str) -> object:
    """`value`, which stands at `name` in `where`, in the type of `hint`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or (hint in (None, NoneType) and value is None):
        return value
    if hint in (int, float) and _is_number(value, hint):
        return float(value) if hint is float else value
    if hint in (str, bool) and isinstance(value, hint):
        return value
    if dataclasses.is_dataclass(hint):
        return _read_record(hint, value, f"{where}: {name}")  # type: ignore[type-var]
    if origin in (Union, UnionType):
        return _read_union(value, hint, where, name)
    if origin is Literal and any(value == part and type(value) is type(part) for part in parts):
        return value
    if origin is list and isinstance(value, list):
        return [_read(item, parts[0], where, f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list):
        kinds = [parts[0]] * len(value) if parts[1:] == (...,) else parts
        if len(kinds) == len(value):
            pairs = enumerate(zip(value, kinds, strict=True))
            return tuple(_read(item, kind, where, f"{name}[{i}]") for i, (item, kind) in pairs)
    if origin is dict and isinstance(value, dict):
        return {key: _read(item, parts[1], where, f"{name}.{key}") for key, item in value.items()}
    raise _MismatchError(f"{where}: {name} is {_short(value)}, which is not {_describe(hint)}.")


def _read_union(value: object, hint: object, where: str, name: str) -> object:
    choices = [part for part in typing.get_args(hint) if part is not NoneType]
    if value is None and len(choices) < len(typing.get_args(hint)):
        return None
    if len(choices) == 1:  # its own complaint says more
        return _read(value, choices[0], where, name)
    for choice in choices:
        try:
            return _read(value, choice, where, name)
        except _MismatchError:
            continue
    raise _MismatchError(f"{where}: {name} is {_short(value)}, which is not {_describe(hint)}.")


def _is_number(value: object, kind: type) -> bool:
    allowed = (int, float) if kind is float else (int,)
    return isinstance(value, allowed) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _describe(hint: object) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
