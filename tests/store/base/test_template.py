"""Texts with fields in them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.template import Template, value_at

LITERAL = st.text(st.characters(exclude_characters="{}"), max_size=5)
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="{}:!."), min_size=1, max_size=8
).filter(lambda name: name == name.strip() and re.fullmatch("[0-9]+", name) is None)
"""Columns of tables are called `Unit Price`, `Größe`, `$os`."""


def shown(name: str, value: Any) -> str:
    return "" if value is None else f"<{name}={value}>"


@given(LITERAL, st.lists(st.tuples(NAME, LITERAL), max_size=4), st.data())
def test_fields_are_replaced_and_missing_ones_are_empty(
    first: str, rest: list[tuple[str, str]], data: st.DataObject
) -> None:
    known = {name: data.draw(st.integers() | st.text(max_size=3)) for name, _ in rest if data.draw(st.booleans())}
    expected, text = first, first
    for name, literal in rest:
        value = known.get(name)
        expected += (value if isinstance(value, str) else shown(name, value)) + literal
        text += f"{{{name}}}{literal}"
    template = Template(text)
    assert template.render(known, shown) == expected
    assert template.render({}, shown) == first + "".join(literal for _, literal in rest)


@given(
    st.text(max_size=3),
    st.sampled_from(
        ["{", "}", "{}", "{0}", "{a!r}", "{a:>3}", "{a.}", "{.a}", "{a..b}", "{{a}}", "{ a}", "{a }", "{a. b}", "{12}"]
    ),
)
def test_anything_but_a_plain_field_is_refused(around: str, wrong: str) -> None:
    with pytest.raises(ValueError, match="only plain"):
        Template(around.replace("{", "").replace("}", "") + wrong)


def test_a_value_is_not_a_template() -> None:
    assert Template("{a} of {b}").render({"a": "{b}", "b": "x"}, shown) == "{b} of x"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": {"b": {"c": "x"}}}, "x!"),
        ({"a.b.c": "whole"}, "whole!"),
        ({"a.b.c": "whole", "a": {"b": {"c": "x"}}}, "whole!"),
        ({"a": {"b": {"c": 5}}}, "<a.b.c=5>!"),
        ({"a": {"b": "x"}}, "!"),
        ({"a": [{"b": 1}]}, "!"),
        ({"a": {"b": {"c": None}}}, "!"),
        ({}, "!"),
    ],
)
def test_fields_inside_others(values: dict[str, Any], expected: str) -> None:
    template = Template("{a.b.c}!")
    assert template.render(values, shown) == expected
    assert template.fields == ("a.b.c",)
    found = value_at(values, "a.b.c")
    assert (found if isinstance(found, str) else shown("a.b.c", found)) + "!" == expected
