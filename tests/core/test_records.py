"""Records into JSON and back, and what is said of a file that does not fit."""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pelap.core.errors import ConfigError, DataError
from pelap.core.records import (
    FORMAT_VERSION,
    OPTIONAL,
    from_json_dict,
    read_record,
    to_json,
    to_json_dict,
)

Kind = Literal["small", "large"]


@dataclass(frozen=True)
class Part:
    weight: float
    kind: Kind = "small"
    size: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Whole:
    name: str
    parts: list[Part]
    by_name: dict[str, Part]
    rows: list[list[float | None]]
    best: Part | None
    numbers: tuple[int, ...] = ()
    limit: int | str = 0
    extra: Part | None = field(default=None, metadata=OPTIONAL)
    is_done: bool = field(default=False)


WHOLE = Whole(
    "a", [Part(0.5, "large", (2, 3))], {"x": Part(1.0)}, [[1.0, None], []], None, (1, 2), "all"
)


def test_a_record_survives_json():
    for record in (WHOLE, Whole("b", [], {}, [], Part(2.0), extra=Part(3.0))):
        text = to_json(record, indent=1)
        assert from_json_dict(Whole, json.loads(text), "here") == record
        assert text.endswith("}\n")


@given(st.builds(Part, st.floats(allow_nan=False), st.sampled_from(["small", "large"]),
                 st.tuples(st.integers(), st.integers())))  # fmt: skip
def test_any_part_survives_json(part: Part):
    assert from_json_dict(Part, json.loads(to_json(part)), "here") == part


def test_the_version_is_one_added_field():
    values = to_json_dict(Part(1.0))
    assert values == {"format_version": FORMAT_VERSION, "weight": 1.0, "kind": "small",
                      "size": [1, 1]}  # fmt: skip
    del values["format_version"]
    assert from_json_dict(Part, values, "here") == Part(1.0)


def test_an_optional_field_without_a_value_is_not_written():
    assert "extra" not in to_json_dict(WHOLE)
    assert to_json_dict(WHOLE)["best"] is None


def test_whole_numbers_are_read_where_fractions_are_expected():
    weight = from_json_dict(Part, {"weight": 2}, "here").weight
    assert (weight, type(weight)) == (2.0, float)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"weight": "x"}, "here: parts[0]: weight is 'x', which is not float."),
        ({"weight": True}, "here: parts[0]: weight is True, which is not float."),
        ({"kind": "big"}, "here: parts[0]: kind is 'big', which is not one of small, large."),
        ({"size": [1]}, "here: parts[0]: size is [1], which is not tuple[int, int]."),
        ({"size": [1, 2.5]}, "here: parts[0]: size[1] is 2.5, which is not int."),
        ({"colour": 1}, "here: parts[0] has the unknown field 'colour': known are weight, kind, "
                        "size."),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_its_place(changes: dict[str, Any], complaint: str):
    values = to_json_dict(WHOLE)
    values["parts"][0] |= changes
    with pytest.raises(DataError) as caught:
        from_json_dict(Whole, values, "here")
    assert str(caught.value) == complaint


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rows": [[1, "x"]]}, r"here: rows\[0\]\[1\] is 'x', which is not float"),
        ({"by_name": {"x": 3}}, "here: by_name.x should hold a JSON object, found int"),
        ({"limit": 1.5}, r"here: limit is 1.5, which is not int \| str"),
        ({"name": None}, "here: name is None, which is not str"),
        ({"format_version": 2}, "here has format version 2: this pelap reads up to 1"),
        ({"format_version": "new"}, "format_version is 'new'"),
        ({"parts": "x" * 100}, "here: parts is 'x+…, which is not"),
    ],
)
def test_nested_values_and_versions_are_checked(changes: dict[str, Any], complaint: str):
    with pytest.raises(DataError, match=complaint):
        from_json_dict(Whole, to_json_dict(WHOLE) | changes, "here")


def test_a_missing_field_is_named():
    values = to_json_dict(WHOLE)
    del values["name"]
    with pytest.raises(ConfigError, match="here lacks the field 'name'"):
        from_json_dict(Whole, values, "here", ConfigError)
    with pytest.raises(DataError, match="should hold a JSON object, found list"):
        from_json_dict(Whole, [], "here")


def test_files_are_read_and_named(tmp_path: Path):
    path = tmp_path / "part.json"
    path.write_text(to_json(Part(1.0)))
    assert read_record(Part, path) == Part(1.0)
    path.write_text("{")
    with pytest.raises(DataError, match=r"part\.json is not JSON"):
        read_record(Part, path)
    with pytest.raises(OSError, match=r"part\.json"):
        read_record(Part, tmp_path / "missing" / "part.json")


def test_nan_is_refused_where_it_would_make_a_model_of_nan(tmp_path: Path):
    @dataclass(frozen=True)
    class Measured:
        value: float

    (tmp_path / "a.json").write_text('{"value": NaN}')
    assert math.isnan(read_record(Measured, tmp_path / "a.json").value)
    with pytest.raises(DataError, match="it holds NaN"):
        read_record(Measured, tmp_path / "a.json", allow_nan=False)
