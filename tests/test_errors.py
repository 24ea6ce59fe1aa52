"""The error tree is what its docstring draws: classes, parents and codes."""

from __future__ import annotations

import re

import pytest

from runai import errors
from runai.errors import RunAIError, all_errors
from runai.schema.events import ErrorBody

LINE = re.compile(r"^    (?P<bars>[│├└─ ]*)(?P<name>[A-Z]\w+) {2,}(?P<code>[a-z_]+)", re.MULTILINE)


def drawn() -> list[tuple[str, str, str | None]]:
    """(name, code, parent's name) of every class in the drawing."""
    path: list[str] = []
    rows = []
    for match in LINE.finditer(errors.__doc__ or ""):
        depth = len(match["bars"]) // 4
        path = [*path[:depth], match["name"]]
        rows.append((match["name"], match["code"], path[-2] if depth else None))
    return rows


CLASSES = {cls.__name__: cls for cls in all_errors().values()}


def test_the_drawing_and_the_tree_have_the_same_classes() -> None:
    assert {name for name, _, _ in drawn()} == set(CLASSES)
    assert len(drawn()) == len(CLASSES) > 30


@pytest.mark.parametrize(("name", "code", "parent"), drawn(), ids=lambda part: str(part))
def test_a_class_has_the_code_and_the_parent_that_are_drawn(
    name: str, code: str, parent: str | None
) -> None:
    cls = CLASSES[name]
    assert cls.code == code
    assert cls.__base__ is (Exception if parent is None else CLASSES[parent])


def test_every_class_has_a_code_of_its_own() -> None:
    defined = [cls for cls in vars(errors).values() if isinstance(cls, type)]
    ours = [cls for cls in defined if issubclass(cls, RunAIError)]
    assert all("code" in vars(cls) for cls in ours)
    assert len({cls.code for cls in ours}) == len(ours) == len(all_errors())


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_every_error_says_what_to_do_and_where(cls: type[RunAIError]) -> None:
    error = cls("It broke.", field="width")
    assert error.hint.endswith(".")
    assert str(error) == f"width: It broke. {error.hint} [{cls.code}]"
    assert cls("It broke.", hint="Mend it.").hint == "Mend it."


@pytest.mark.parametrize("cls", CLASSES.values(), ids=lambda cls: cls.__name__)
def test_every_error_survives_the_wire(cls: type[RunAIError]) -> None:
    error = cls("It broke.", hint="Mend it.", field="width")
    back = ErrorBody.of(error).to_exception()
    assert type(back) is cls
    assert (back.message, back.hint, back.field) == ("It broke.", "Mend it.", "width")


def test_a_code_of_a_newer_server_is_read_as_the_base() -> None:
    back = ErrorBody(code="from_the_future", message="m", hint="h").to_exception()
    assert type(back) is RunAIError
