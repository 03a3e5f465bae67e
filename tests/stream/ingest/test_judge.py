"""One time stamp cannot erase everybody; verdicts are a function of the partition's messages. Without a broker."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.base.settings import ERASURE, ModalitySettings
from stream.clock import AGREE, RESET_CLOCK, ClockState, EventClock
from stream.events.event import Event
from stream.events.validate import Validator
from stream.ingest.judge import Judge
from stream.rejection import ErrorCode, Rejection, Skipped
from stream.settings import Clock, IngestSettings, MappingSettings
from tests.support.raw_message import RawMessage

DAY_MS = 86_400_000
NOW = 1_760_000_000_000
OLD = NOW - 3000 * DAY_MS
SOURCE = ("raw", 0)
MODALITIES = {"bill": ModalitySettings(topic="raw", text="{shop}", window_days=90, memory_days=0)}
SETTINGS = IngestSettings(clock=Clock.STREAM)
BOUND_MS = 30 * DAY_MS


MAPPING = {"raw": MappingSettings(skip_without_user=True, null_erases=True)}


def new_judge(settings: IngestSettings = SETTINGS) -> Judge:
    clock = EventClock.of(settings, MODALITIES)
    return Judge(Validator(MODALITIES, settings, clock, mapping=MAPPING), clock)


def messages(times: Iterable[int | None]) -> list[RawMessage]:
    """None: not an event at all."""
    return [
        RawMessage(*SOURCE, i, b"{" if ts is None else json.dumps({"user_id": "u", "ts": ts, "shop": "s"}).encode())
        for i, ts in enumerate(times)
    ]


def on(source: tuple[str, int], offset: int, ts: int) -> RawMessage:
    return RawMessage(*source, offset, json.dumps({"user_id": "u", "ts": ts, "shop": "s"}).encode())


def verdict(result: Event | Rejection | Skipped) -> str:
    if isinstance(result, Skipped):
        return result.reason
    return result.code if isinstance(result, Rejection) else "accepted"


def verdicts(times: Sequence[int | None]) -> list[str]:
    """Of each message, when all are there."""
    judge = new_judge()
    found = {m.offset(): verdict(result) for m, result in judge.judge(messages(times), NOW)}
    found |= {m.offset(): verdict(result) for m, result in judge.conclude(SOURCE, NOW)}
    return [found[i] for i in range(len(times))]


history = [OLD + i * 3_600_000 for i in range(100)]


@pytest.mark.parametrize("at", [0, 1, 5, 31, 32, 50, 99, 100])
@pytest.mark.parametrize("ts", [NOW, OLD + 40 * DAY_MS])
def test_one_line_far_ahead_is_refused_wherever_it_is(at: int, ts: int) -> None:
    """A2: it set the stream's time; every later event was too old and all other users were erased."""
    stream = [*history[:at], ts, *history[at:]]
    expected = ["accepted"] * 101
    expected[at] = "ts_ahead_of_stream"
    assert verdicts(stream) == expected


@pytest.mark.parametrize("at", [0, 1, 31])
def test_one_line_far_back_at_the_beginning_is_refused(at: int) -> None:
    stream = [*history[:at], OLD - 400 * DAY_MS, *history[at:]]
    found = verdicts(stream)
    assert found[at] == "ts_too_old"
    assert found.count("accepted") == 100


@pytest.mark.parametrize("n", [2, 3, 15, AGREE - 1])
def test_a_broken_producer_that_sends_fewer_than_agree_in_a_row(n: int) -> None:
    stream: list[int] = []
    for i in range(0, 100, 20):
        stream += [*history[i : i + 20], *range(NOW - n, NOW)]
    assert [verdicts(stream)[i] for i, ts in enumerate(stream) if ts < OLD + BOUND_MS] == ["accepted"] * 100


def test_a_real_gap_loses_nothing() -> None:
    later = [ts + 200 * DAY_MS for ts in history]
    assert set(verdicts([*history, *later])) == {"accepted"}
    assert set(verdicts([*history, *later[:AGREE]])) == {"accepted"}


def test_a_gap_at_whose_other_side_is_little_is_refused_at_the_end() -> None:
    later = [ts + 200 * DAY_MS for ts in history[: AGREE - 1]]
    assert verdicts([*history, *later])[100:] == ["ts_ahead_of_stream"] * (AGREE - 1)


@pytest.mark.parametrize("wrong", [None, 0, 1, 2])
def test_a_sparse_partition_crosses_a_gap_where_others_have_been_there(wrong: int | None) -> None:
    """Found by the demo, twelve weeks of it: a household's campaigns may be 35 days apart, and each was refused."""
    judge = new_judge()
    for source in (("raw", 1), SOURCE):
        assert {verdict(r) for _, r in judge.judge([on(source, i, ts) for i, ts in enumerate(history)], NOW)} == {
            "accepted"
        }
    there = [OLD + 40 * DAY_MS, OLD + 41 * DAY_MS]
    busy = [OLD + hours * 3_600_000 for hours in range(100, 40 * 24)]
    assert {verdict(r) for _, r in judge.judge([on(("raw", 1), 100 + i, ts) for i, ts in enumerate(busy)], NOW)} == {
        "accepted"
    }
    late = [*there[:wrong], NOW, *there[wrong:]] if wrong is not None else there
    held = [on(SOURCE, 100 + i, ts) for i, ts in enumerate(late)]
    assert [*judge.judge(held, NOW)] == []  # 32 in a row may still come
    found = {m.offset(): verdict(r) for m, r in judge.conclude(SOURCE, NOW)}
    expected = ["ts_ahead_of_stream" if ts == NOW else "accepted" for ts in late]
    assert [found[100 + i] for i in range(len(late))] == expected
    assert judge.state(SOURCE).newest == there[-1]
    assert judge.first_held(SOURCE) is None


def test_others_that_are_not_there_either_say_nothing() -> None:
    judge = new_judge()
    for source in (("raw", 1), SOURCE):
        assert len([*judge.judge([on(source, i, ts) for i, ts in enumerate(history)], NOW)]) == 100
    assert [*judge.judge([on(SOURCE, 100, OLD + 40 * DAY_MS)], NOW)] == []
    assert [verdict(r) for _, r in judge.conclude(SOURCE, NOW)] == ["ts_ahead_of_stream"]


def test_those_refused_at_the_end_count_when_more_come() -> None:
    later = messages([ts + 200 * DAY_MS for ts in history[:AGREE]])
    judge = new_judge()
    first = [*judge.judge(messages(history), NOW), *judge.judge(later[:20], NOW), *judge.conclude(SOURCE, NOW)]
    assert [verdict(r) for _, r in first].count("ts_ahead_of_stream") == 20
    state = judge.state(SOURCE)
    assert len(state.ahead) == 20
    again = new_judge()
    again.restore(SOURCE, state)
    assert [verdict(r) for _, r in again.judge(later[20:], NOW)] == ["accepted"] * (AGREE - 20)


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ([NOW], ["accepted"]),
        ([OLD, NOW], ["accepted", "ts_ahead_of_stream"]),
        ([NOW, OLD, OLD], ["ts_ahead_of_stream", "accepted", "accepted"]),
        ([NOW, None, OLD, OLD - 4300 * DAY_MS], ["ts_ahead_of_stream", "invalid_json", "accepted", "ts_too_old"]),
    ],
)
def test_a_partition_with_less_than_agree_begins_at_their_median(stream: list[int | None], expected: list[str]) -> None:
    assert verdicts(stream) == expected


@pytest.mark.parametrize("order", [1, -1])
def test_a_few_events_of_a_long_time_are_all_taken(order: int) -> None:
    """Forwards all of them; backwards those of the window. None is ahead."""
    stream = [OLD + i * 20 * DAY_MS for i in range(18)][::order]
    assert verdicts(stream) == ["accepted"] * (18 if order == 1 else 5) + ["ts_too_old"] * (0 if order == 1 else 13)


def test_too_many_bytes_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.ingest.judge.MAX_HELD_BYTES", 200)
    assert set(verdicts(history)) == {"accepted"}
    judge = new_judge()
    assert len(list(judge.judge(messages(history[:10]), NOW))) >= 5


def test_a_clock_is_reset_by_the_letter_that_asks_for_it() -> None:
    """Once: the others are judged by the clock that begins with it, the letter itself too."""
    stream = messages([*history, *history])
    first, letters = stream[:100], stream[100:]
    letters[0] = letters[0]._replace(with_headers=(("x", b"y"), RESET_CLOCK))
    judge = new_judge()
    judge.restore(SOURCE, ClockState(NOW))
    assert {verdict(r) for _, r in judge.judge(first, NOW)} == {"ts_too_old"}
    assert {verdict(r) for _, r in judge.judge(letters, NOW)} == {"accepted"}
    assert judge.state(SOURCE) == ClockState(history[-1])
    outlier = letters[0]._replace(content=messages([OLD - 400 * DAY_MS])[0].content)
    found = [verdict(r) for _, r in judge.judge([outlier, *letters[1:]], NOW)]
    assert found == ["ts_too_old", *["accepted"] * 99]
    again = new_judge(IngestSettings())
    assert [verdict(r) for _, r in again.judge(letters[:1], NOW)] == ["ts_too_old"], "the wall is not reset"


times = st.lists(
    st.none()
    | st.integers(0, 20).map(lambda d: OLD + d * DAY_MS)
    | st.sampled_from([OLD - 200 * DAY_MS, OLD + 300 * DAY_MS, OLD + 301 * DAY_MS, NOW]),
    max_size=90,
)
runs = st.lists(st.tuples(times, st.integers(1, 3)), max_size=4).map(lambda parts: [t for p, n in parts for t in p * n])


@given(runs, st.data())
def test_restarts_and_batches_change_no_verdict(stream: list[int | None], data: st.DataObject) -> None:
    """Read anew at any moment from where it may be committed, with the clock committed there."""
    expected = verdicts(stream)
    all_messages = messages(stream)
    judge = new_judge()
    found: dict[int, str] = {}
    at = 0
    while at < len(stream):
        end = at + data.draw(st.integers(1, 50))
        for message, result in judge.judge(all_messages[at:end], NOW):
            assert found.setdefault(message.offset(), verdict(result)) == verdict(result), "judged as before"
        at = min(end, len(stream))
        if data.draw(st.booleans()):
            held, state = judge.first_held(SOURCE), judge.state(SOURCE)
            at = at if held is None else held
            judge = new_judge()
            judge.restore(SOURCE, state)
            if at < len(stream):
                continue
    found |= {m.offset(): verdict(result) for m, result in judge.conclude(SOURCE, NOW)}
    assert [found[i] for i in range(len(stream))] == expected


@given(runs)
def test_a_clock_begun_ahead_of_its_messages_changes_no_verdict(stream: list[int | None]) -> None:
    """What stream/ingest/merge.py does where it knows the next messages."""
    judge = new_judge()
    known = [ts for ts in stream if ts is not None]
    judge.begin(SOURCE, known[:AGREE], NOW)
    found = {}
    for message in messages(stream):
        found |= {m.offset(): verdict(result) for m, result in judge.judge([message], NOW)}
    found |= {m.offset(): verdict(result) for m, result in judge.conclude(SOURCE, NOW)}
    assert [found[i] for i in range(len(stream))] == verdicts(stream)


def test_with_its_clock_begun_nothing_is_held() -> None:
    judge = new_judge()
    judge.begin(SOURCE, history[:AGREE], NOW)
    for message in messages(history):
        assert [verdict(result) for _, result in judge.judge([message], NOW)] == ["accepted"]
    again = new_judge()
    again.begin(SOURCE, history[: AGREE - 1], NOW)
    assert list(again.judge(messages(history[:1]), NOW)) == [], "too few to say"


@given(runs)
def test_what_is_held_is_bounded_and_before_it_nothing_is_missing(stream: list[int | None]) -> None:
    judge = new_judge()
    decided: set[int] = set()
    for message in messages(stream):
        decided |= {m.offset() for m, _ in judge.judge([message], NOW)}
        first = judge.first_held(SOURCE)
        read = set(range(message.offset() + 1))
        assert len(read - decided) < AGREE
        assert min(read - decided, default=None) == first


@given(runs, st.lists(st.integers(0, 200), max_size=40))
def test_what_is_skipped_decides_nothing(stream: list[int | None], places: list[int]) -> None:
    """Messages that are passed over, of whatever time, between others: those are judged as without them."""
    expected = verdicts(stream)
    mixed: list[RawMessage | None] = [*messages(stream)]
    for place in places:
        mixed.insert(min(place, len(mixed)), None)
    passed = json.dumps({"ts": NOW, "shop": "s"}).encode()
    numbered = [
        RawMessage(*SOURCE, i, passed) if message is None else message._replace(at=i) for i, message in enumerate(mixed)
    ]
    judge = new_judge()
    found = {m.offset(): verdict(r) for m, r in [*judge.judge(numbered, NOW), *judge.conclude(SOURCE, NOW)]}
    assert [found[i] for i, message in enumerate(mixed) if message is None] == ["without_user"] * len(places)
    assert [found[i] for i, message in enumerate(mixed) if message is not None] == expected


def test_the_wall_holds_nothing() -> None:
    judge = new_judge(IngestSettings())
    assert len(list(judge.judge(messages([NOW, NOW - 80 * DAY_MS]), NOW))) == 2
    assert not judge.held()
    assert judge.state(SOURCE) == ClockState(NOW)


def test_the_refusal_says_how_far_and_how_to_allow_it() -> None:
    judge = new_judge()
    *_, (_, last) = [*judge.judge(messages([*history, NOW]), NOW), *judge.conclude(SOURCE, NOW)]
    assert isinstance(last, Rejection)
    assert last.code is ErrorCode.TS_AHEAD_OF_STREAM
    assert last.detail == "2995.9 days ahead of raw:0; at most 30 (ingest.max_ahead_days)"


@given(
    st.lists(st.sampled_from([None, *range(6)]), max_size=3 * AGREE),
    st.lists(st.integers(0, 3 * AGREE), max_size=5),
)
def test_an_erasure_changes_no_verdict_and_none_is_decided_before_what_was_held(
    steps: list[int | None], places: list[int]
) -> None:
    """steps: in bounds (0) or so many times the bound ahead; None: no event."""
    times = [None if ahead is None else OLD + 2 * ahead * BOUND_MS + i for i, ahead in enumerate(steps)]
    plain = messages(times)
    mixed = list(plain)
    for place in places:
        mixed.insert(place, RawMessage(*SOURCE, 0, None, OLD, with_key=b"u"))
    found = []
    for of in (plain, mixed):
        judge = new_judge()
        decided: list[tuple[int, str]] = []
        for at, message in enumerate(of):
            for given_message, result in judge.judge([message._replace(at=at)], NOW):
                decided.append((given_message.offset(), verdict(result)))
                if isinstance(result, Event) and result.modality == ERASURE and judge.first_held(SOURCE) is not None:
                    assert given_message.offset() < judge.first_held(SOURCE)
        decided += [(m.offset(), verdict(result)) for m, result in judge.conclude(SOURCE, NOW)]
        assert sorted(at for at, _ in decided) == list(range(len(of)))
        verdicts_of = dict(decided)
        found.append([verdicts_of[at] for at, message in enumerate(of) if message.value() is not None])
        assert {verdicts_of[at] for at, message in enumerate(of) if message.value() is None} <= {"accepted"}
    assert found[0] == found[1]
