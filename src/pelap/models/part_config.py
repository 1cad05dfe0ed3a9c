"""Refuse a network's config that its class could not have written, before anything is built."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pelap.core.errors import ModelError
from pelap.core.json_values import JsonObject

LARGEST = 2**31
"""No size or number of layers is larger."""
NUMBERS = frozenset({int, float, bool})
Kind = Literal["text", "number"]


def check_config(path: Path, config: JsonObject, network: type) -> None:
    """Refuse values of another kind than the class's own, and numbers out of all range.

    A list of such values may stand where one does, for one a level, but no list of lists where the
    class has none; and null anywhere.

    Args:
        path: The config's file.
        config: What it holds.
        network: The class, whose `__init__` says what belongs there.

    Raises:
        ModelError: Names the field.
    """
    parameters = inspect.signature(network.__init__).parameters
    hints = get_type_hints(network.__init__)
    for name, value in config.items():
        if name not in parameters:
            continue
        default, hint = parameters[name].default, hints.get(name)
        if _depth(value) > max(_depth(default), _hinted_depth(hint), 1):
            raise ModelError(f"{path}: {name} is {value!r}, with lists where values belong.")
        kind = _kind(default, hint)
        for leaf in _leaves(value):
            if isinstance(leaf, int | float) and not abs(leaf) <= LARGEST:  # NaN too
                raise ModelError(f"{path}: {name} holds {leaf}, which is out of all range.")
            if kind is not None and not _is(kind, leaf):
                raise ModelError(f"{path}: {name} is {value!r}, where a {kind} belongs.")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif value is not None:
        yield value


def _depth(value: Any) -> int:
    """How many lists are inside one another."""
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list | tuple) else 0


def _hinted_depth(hint: Any) -> int:
    """Of lists and tuples in an annotation; of a bare one nobody knows."""
    if hint in (list, tuple, Any):
        return LARGEST
    inner = max(map(_hinted_depth, get_args(hint)), default=0)
    return inner + (get_origin(hint) in (list, tuple))


def _kind(default: Any, hint: Any) -> Kind | None:
    """By the default, or where that is None by the annotation; None where both allow several."""
    kinds = {type(leaf) for leaf in _leaves(list(default) if type(default) is tuple else default)}
    if not kinds or default is inspect.Parameter.empty:
        kinds = {*(get_args(hint) or (hint,))} - {type(None)}
    if kinds and kinds <= NUMBERS:
        return "number"
    return "text" if kinds == {str} else None


def _is(kind: Kind, leaf: Any) -> bool:
    if kind == "number":
        return isinstance(leaf, int | float)
    return isinstance(leaf, str | bool)  # older configs have false for "none"
