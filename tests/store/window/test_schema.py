"""Kind and numbers of a modality, and the text encoder, are part of the state's identity (A8)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.errors import StateError
from store.base.settings import ModalityKind, ModalitySettings
from store.buffer.view import BufferView
from store.window.layout import Schema
from tests.models.events import DIM, Log, Open, event, modalities

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=10)
schemas = st.builds(
    Schema,
    names,
    st.integers(1, 4096),
    st.dictionaries(names, st.tuples(st.sampled_from(["events", "tabular"]), st.lists(names, max_size=3).map(tuple))),
)


def changed(name: str, **changes: Any) -> dict[str, ModalitySettings]:
    made = modalities()
    return made | {name: made[name].model_copy(update=changes)}


MISFITS = [
    (changed("t", kind=ModalityKind.EVENTS), r"modalities\.t with kind = 'tabular', not 'events'"),
    (changed("b", kind=ModalityKind.TABULAR), r"modalities\.b with kind = 'events', not 'tabular'"),
    (changed("a", numbers=("x", "z")), r"modalities\.a with numbers = \['x', 'y'\], not \['x', 'z'\]"),
    (changed("a", numbers=("y", "x")), "modalities.a"),
    (changed("a", numbers=("x",)), "modalities.a"),
    (changed("b", numbers=("x",)), "modalities.b"),
]
FITTING = [
    modalities() | {"new": ModalitySettings(topic="n")},
    {name: modality for name, modality in modalities().items() if name != "b"},
    changed("a", text="{x}", window_days=9.0, max_events=7),
    changed("t", numbers=("ignored",)),
]


@given(schemas)
def test_a_schema_is_read_back(schema: Schema) -> None:
    assert Schema.unpack(schema.pack()) == schema
    schema.check(schema, "itself")


@given(st.binary(min_size=8, max_size=8).map(lambda owner: b"\x00" + owner[1:]) | st.none())
def test_a_marker_of_an_older_version_says_nothing(value: bytes | None) -> None:
    """Its value was the owner: a small epoch and a random number."""
    assert Schema.unpack(value) is None


@pytest.mark.parametrize("replica", [False, True])
@pytest.mark.parametrize(("made", "why"), MISFITS)
def test_another_kind_or_other_numbers_are_refused_by_the_disk_and_by_the_log(
    opened: Open, made: dict[str, ModalitySettings], why: str, replica: bool
) -> None:
    source, log = opened("source"), Log()
    log.write(source, [event("u", "a", 1000, "e1"), event("u", "t", 1000, "e2", fields={"x": True})], 0)
    buffer = opened("b", replica=replica)
    buffer.apply_log([row[:2] for row in log.records], next_offset=len(log), marker=source.schema.pack())
    buffer.close()
    with pytest.raises(StateError, match=why) as raised:
        opened("b", modalities=made, replica=replica)
    assert raised.value.code == "state_mismatch"
    assert raised.value.action.startswith("set modalities.")
    opened("b", replica=replica).close()  # nothing was changed
    other = opened("another disk", modalities=made, replica=replica)
    with pytest.raises(StateError, match=why):
        other.apply_log([row[:2] for row in log.records], next_offset=len(log), marker=source.schema.pack())
    assert (other.log_offset, list(other.rows())) == (0, [])
    other.close()
    opened("another disk", replica=replica)  # with the old configuration it goes on


@pytest.mark.parametrize("made", FITTING)
def test_what_comes_goes_or_concerns_new_events_only_is_fine(opened: Open, made: dict[str, ModalitySettings]) -> None:
    first = opened("b")
    first.apply_log([], next_offset=1, marker=first.schema.pack())
    first.close()
    second = opened("b", modalities=made)
    second.apply_log([], next_offset=2, marker=first.schema.pack())
    assert second.schema.modalities.keys() == modalities().keys() | made.keys()


def test_a_modality_that_went_comes_back_as_it_was(opened: Open) -> None:
    first = opened("b")
    first.apply_log([], next_offset=1, marker=first.schema.pack())
    first.close()
    without = opened("b", modalities=FITTING[1])
    without.apply_log([], next_offset=2, marker=without.schema.pack())
    without.close()
    with pytest.raises(StateError, match=r"modalities\.b"):
        opened("b", modalities=changed("b", kind=ModalityKind.TABULAR))


def test_a_log_of_another_text_encoder_is_refused_by_an_empty_disk(opened: Open) -> None:
    source = opened("source", encoder_id="old")
    with pytest.raises(StateError, match="text encoder 'old'"):
        opened("b").apply_log([], next_offset=1, marker=source.schema.pack())


def test_verify_refuses_to_compare_under_another_schema(opened: Open, tmp_path: Path) -> None:
    buffer = opened("b")
    buffer.apply_log([], next_offset=1, marker=buffer.schema.pack())
    buffer.close()
    BufferView(tmp_path / "b", modalities()).close()
    with pytest.raises(StateError, match=r"modalities\.a"):
        BufferView(tmp_path / "b", MISFITS[2][0])


def test_a_schema_of_a_newer_version_is_refused(opened: Open) -> None:
    newer = Schema("enc", DIM, {}).pack().replace(b"\xa1v\x01", b"\xa1v\x02")
    with pytest.raises(StateError, match="schema version 2"):
        opened("b").apply_log([], next_offset=1, marker=newer)
