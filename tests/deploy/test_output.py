"""What comes from data is shown as it is: no markup, nothing that a terminal obeys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import output
from store.base.errors import StateError

BRACKETS = ("[/x]", "a[b]c", "[red]bold[/red]", "[link=http://evil.example]click[/link]", "\\[x]")


@pytest.mark.parametrize("text", BRACKETS)
def test_brackets_are_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One event of a modality `zz[/q]` made the dead letters unlistable; user `a[b]c` was shown as `ac`."""
    output.write_table(("user", "events"), [(text, 1)], title=f"of {text}", right=("events",))
    title, *rest = capsys.readouterr().out.splitlines()
    assert title.strip() == f"of {text}"
    assert [text, "1"] in [line.split() for line in rest]


@given(st.text())
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    shown = output.printable(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text


def test_neither_do_notes_pairs_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "a\x1b]0;pwned\x07\u202e\nb"
    output.note(evil)
    output.note_result(evil)
    output.write_pairs({evil: evil})
    output.write_error(StateError(evil, action="none"))
    output.write_table(("x",), [(evil,)])
    told = capsys.readouterr()
    for stream in (told.out, told.err):
        assert all(c.isprintable() or c == "\n" for c in stream)
    assert "a\\x1b]0;pwned\\x07\\u202e\\nb" in told.out
