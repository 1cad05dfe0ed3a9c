"""Errors of other libraries become one line; ours and those of too little memory stay."""

import pytest

from pelap.core.errors import ModelError, RunError, foreign_errors


@pytest.mark.parametrize("kind", [IndexError, ZeroDivisionError, AssertionError, ValueError])
def test_whatever_is_raised_is_said_in_one_line(kind: type[Exception]):
    with (
        pytest.raises(ModelError, match=r"^it says: one two$"),
        foreign_errors(lambda why: ModelError(f"it says: {why}")),
    ):
        raise kind("one\n two")


@pytest.mark.parametrize("error", [RunError("ours"), MemoryError(), KeyboardInterrupt()])
def test_what_has_its_own_line_passes(error: BaseException):
    with pytest.raises(type(error)) as caught, foreign_errors(ModelError):
        raise error
    assert caught.value is error
