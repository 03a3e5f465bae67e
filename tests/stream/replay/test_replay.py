"""Replay: every line is sent once, in order, to the topic where it belongs, at the pace asked for."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from store.base.errors import AnchorstreamError, NotFoundError
from store.base.settings import ModalitySettings
from store.base.stop import Stopped
from stream.clock import EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.rejection import ErrorCode, Rejection, Skipped
from stream.replay.open_files import open_rows
from stream.replay.order import read
from stream.replay.pace import Pace, PaceClock, timed
from stream.replay.replay import Headers, Outgoing, ReplayProgress, Router, replay
from stream.replay.row_file import MAX_ROW_BYTES
from stream.settings import Clock, Condition, IngestSettings, MappingSettings, TimeUnit

CLICKS = ModalitySettings(topic="in.click", text="{title}")
PROFILES = ModalitySettings(topic="in.profile", kind="tabular")
TWO = {"click": CLICKS, "profile": PROFILES}
SHARED = {"click": CLICKS, "view": ModalitySettings(topic="in.click"), "profile": PROFILES}
NOW_MS = 1_772_366_400_000


class Sent:
    """A producer that keeps what it was given."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes | None, bytes | None]] = []
        self.headers: list[Headers | None] = []
        self.flushed = 0

    def produce(
        self, topic: str, value: bytes | None, key: bytes | None = None, *, headers: Headers | None = None
    ) -> None:
        self.messages.append((topic, key, value))
        self.headers.append(headers)

    def flush(self, timeout: float) -> None:
        self.flushed = len(self.messages)


class FakeTime:
    """A clock that moves only when someone waits on its event."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stop = threading.Event()
        self.stop.wait = self._wait  # type: ignore[method-assign]

    def _wait(self, timeout: float | None = None) -> bool:
        self.now += timeout or 0.0
        return self.stop.is_set()

    def __call__(self) -> float:
        return self.now


def event(user: str = "u1", modality: str | None = "click", ts: object = NOW_MS, **fields: object) -> bytes:
    body = {"event_id": "e", "user_id": user, "ts": ts, **fields}
    return json.dumps(body if modality is None else {**body, "modality": modality}).encode()


def judge(
    modalities: dict[str, ModalitySettings], message: Outgoing, mapping: dict[str, MappingSettings] | None = None
) -> Event | Rejection | Skipped:
    """What ingest makes of a message."""
    settings = IngestSettings(clock=Clock.STREAM, max_age_days=200 * 365)
    validator = Validator(modalities, settings, EventClock.of(settings, modalities, lenient=True), mapping=mapping)
    return validator.validate(message.value, message.topic, 0, 0, NOW_MS, NOW_MS)


@pytest.mark.parametrize("modalities", [{"click": CLICKS}, TWO, SHARED], ids=["one", "two", "shared"])
@given(
    modality=st.sampled_from(["click", "view", "profile", "nonsense", None, 7, ["click"], {}, ""]),
    user=st.sampled_from(["u1", "", None, 7, "x" * 129, "\ud800"]),
)
def test_no_line_is_taken_for_another_modality(
    modalities: dict[str, ModalitySettings], modality: object, user: object
) -> None:
    """Whatever the line says, ingest accepts it only under the modality it names (or the only one there is)."""
    body: dict[str, object] = {"user_id": user, "ts": NOW_MS, "title": "t"}
    if modality is not None:
        body["modality"] = modality
    message = Router(modalities, "dead").route(json.dumps(body).encode())
    if message.topic == "dead":
        assert modality is None
        assert dict(message.headers or [])["error"] == ErrorCode.MISSING_MODALITY.encode()
        return
    verdict = judge(modalities, message)
    if isinstance(verdict, Event):
        assert verdict.modality == (modality if modality is not None else "click")
        assert message.key == verdict.user_id.encode()
    elif user == "u1":
        assert modality not in modalities if isinstance(modality, str) else True


MAPPED = {
    "order": ModalitySettings(topic="segment", text="{title}"),
    "page": ModalitySettings(topic="segment", text="{title}"),
    "visit": ModalitySettings(topic="visits", text="{title}"),
    "profile": PROFILES,
}
MAPPING = {
    "segment": MappingSettings(
        user_id="user.id",
        ts="sent",
        ts_unit=TimeUnit.SECONDS,
        modality="event",
        modalities={"Order Completed": "order", "Page Viewed": "page"},
        where=(Condition(field="type", equals="track"),),
        skip_without_user=True,
        skip_other_modalities=True,
        empty_is_absent=True,
    ),
    "visits": MappingSettings(
        user_id="no", user_id_integers=True, ts="at", ts_zone="Europe/London", modality="kind.is"
    ),
}


def named(body: dict[str, Any], topic: str | None) -> str:
    """Where a line goes: to the first topic of which it names a modality; else as it is told."""
    event, kind, modality = body.get("event"), body.get("kind"), body.get("modality")
    inside = kind.get("is") if isinstance(kind, dict) else None
    if event in ("Order Completed", "Page Viewed"):
        return "segment"
    if inside == "visit":
        return "visits"
    if modality == "profile":
        return "in.profile"
    if topic is not None or event not in (None, ""):
        return topic or "segment"
    return "visits" if inside is not None else "in.profile" if modality is not None else "segment"


@pytest.mark.parametrize("topic", [None, "segment", "visits", "in.profile"])
@given(
    body=st.fixed_dictionaries(
        {"title": st.just("t")},
        optional={
            "event": st.sampled_from(["Order Completed", "Page Viewed", "Other", "order", "", None, 7]),
            "modality": st.sampled_from(["profile", "visit", "order", "nonsense", None]),
            "kind": st.sampled_from([{"is": "visit"}, {"is": "other"}, {}, "visit", None]),
            "type": st.sampled_from(["track", "page"]),
            "user": st.sampled_from([{"id": "u1"}, {"id": ""}, {"id": 7}, {}, None]),
            "user_id": st.sampled_from(["u2", None]),
            "no": st.sampled_from([17, 17.0, "17", True, None]),
            "sent": st.sampled_from([NOW_MS // 1000, "2026-03-01T12:00Z", None, ""]),
            "at": st.sampled_from([NOW_MS, "2026-03-01T12:00", None]),
            "ts": st.sampled_from([NOW_MS, None]),
        },
    )
)
def test_a_line_is_routed_by_the_rules_it_is_judged_by(topic: str | None, body: dict[str, Any]) -> None:
    message = Router(MAPPED, "dead", MAPPING, topic=topic).route(json.dumps(body).encode())
    assert message.topic == named(body, topic)
    verdict = judge(MAPPED, message, MAPPING)
    if isinstance(verdict, Event):
        assert (message.key, message.ts) == (verdict.user_id.encode(), verdict.ts)


@given(st.binary(max_size=60))
def test_any_bytes_go_somewhere_unchanged(value: bytes) -> None:
    message = Router(TWO, "dead").route(value)
    assert message.value == value
    assert message.topic in ("in.click", "in.profile", "dead")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_files_of_all_kinds_give_the_same_lines(tmp_path: Path, suffix: str) -> None:
    lines = [event(ts=NOW_MS + i) for i in range(200)] + [b"{broken", b"\xff\xfe"]
    raw = b"\n".join(lines[:100]) + b"\r\n\n   \n" + b"\n".join(lines[100:])  # blank lines; no newline at the end
    path = tmp_path / f"events{suffix}"
    compress = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}
    path.write_bytes(compress.get(path.suffix, bytes)(raw))
    with open_rows(str(path)) as file:
        assert [line.value for line in file] == lines


def test_a_truncated_file_is_an_error_after_its_readable_lines(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(event(ts=i) + b"\n" for i in range(5000)))[:-200])
    with open_rows(str(path)) as file, pytest.raises(AnchorstreamError, match="cannot be read"):
        list(file)
    with pytest.raises(NotFoundError):
        open_rows(str(tmp_path / "absent.jsonl"))


def test_a_line_too_long_is_named_and_the_next_one_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"x" * (MAX_ROW_BYTES + 5) + b"\n" + event() + b"\n" + b"y" * 2000 + b"\n" + event("u2"))
    sent, progress = Sent(), ReplayProgress()
    with open_rows(str(path)) as file:
        replay(read([file], Router(TWO, "dead"), progress, max_bytes=1000), sent, progress=progress)
    assert [key for _, key, _ in sent.messages] == [b"u1", b"u2"]
    assert progress.unsent == 2
    assert f"{path}:1" in progress.first_unsent[0]
    assert f"{path}:3" in progress.first_unsent[1]
    assert progress.done == 1.0


@given(st.lists(st.integers(0, 10_000_000), max_size=50), st.floats(0.5, 1000))
def test_pace_by_event_time(times: list[int], speed: float) -> None:
    clock = PaceClock(Pace(speed=speed, max_wait_seconds=1e12))
    newest: list[int] = []
    for ts in times:
        newest.append(max([ts, *newest]))
        assert clock.due(ts) == pytest.approx((newest[-1] - newest[0]) / 1000 / speed, abs=1e-6)


@given(st.lists(st.integers(0, 10_000_000), min_size=3, max_size=30, unique=True).map(sorted), st.data())
def test_one_time_far_ahead_changes_the_pace_of_no_other(times: list[int], data: st.DataObject) -> None:
    """The demo's event of next year held everything up for a minute, and all that came after it was sent at once."""
    at = data.draw(st.integers(0, len(times) - 1))
    wrong = [*times[:at], 10**15, *times[at:]]
    paces = []
    for each in (times, wrong):
        clock = PaceClock(Pace(speed=60))
        paces.append([clock.due(ts) for _, ts in timed(Outgoing("t", None, b"", ts) for ts in each)])
    assert paces[1][:at] + paces[1][at + 1 :] == paces[0]
    assert paces[1][at] == paces[1][at + 1]


def test_what_cannot_be_read_any_more_is_said_after_all_before_it() -> None:
    def lines() -> Iterator[Outgoing]:
        yield Outgoing("t", b"1", b"", 0)
        yield Outgoing("t", b"2", b"", 1)
        raise AnchorstreamError("damaged", action="", code="file_unreadable")

    sent = Sent()
    with pytest.raises(AnchorstreamError, match="damaged"):
        replay(lines(), sent, pace=Pace(speed=1000))
    assert [key for _, key, _ in sent.messages] == [b"1", b"2"]


def test_pace_is_kept_and_a_wrong_year_does_not_stop_it() -> None:
    time = FakeTime()
    arrivals: list[float] = []

    class Timed(Sent):
        def produce(self, *args: object, **kwargs: object) -> None:
            arrivals.append(time.now)

    messages = [Outgoing("t", None, b"", ts) for ts in (0, 60_000, None, 120_000, 10**15)]
    progress = replay(messages, Timed(), pace=Pace(speed=60, max_wait_seconds=5), stop=time.stop, clock=time)
    assert arrivals == pytest.approx([0, 1, 1, 2, 7])
    assert progress.sent == 5
    time, arrivals = FakeTime(), []
    replay([Outgoing("t", None, b"")] * 11, Timed(), pace=Pace(rate=10), stop=time.stop, clock=time)
    assert arrivals == pytest.approx([i / 10 for i in range(11)])


def test_a_replay_is_stopped_while_it_waits_for_readers() -> None:
    class Full(Sent):
        def produce(self, *args: object, **kwargs: object) -> None:
            if len(self.messages) == 3:
                raise Stopped
            self.messages.append(("t", None, None))

    safe: list[Mapping[int, int]] = []
    progress = replay([Outgoing("t", None, b"")] * 9, Full(), on_acknowledged=safe.append)
    assert progress.interrupted
    assert (progress.sent, safe) == (3, [{0: 3}])


def test_what_was_read_before_a_damage_is_acknowledged(tmp_path: Path) -> None:
    def damaged():  # type: ignore[no-untyped-def]
        yield from [Outgoing("t", None, b"")] * 5
        raise AnchorstreamError("cut", code="file_unreadable")

    sent, safe = Sent(), []
    with pytest.raises(AnchorstreamError, match="cut"):
        replay(damaged(), sent, on_acknowledged=safe.append)
    assert (sent.flushed, safe) == (5, [{0: 5}])
