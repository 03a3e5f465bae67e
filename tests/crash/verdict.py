"""What a run is found guilty of, counted by kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from store.window.user_window import ModalityWindow, UserWindow
from stream.account.report import AccountReport
from tests.crash.reference import Expected, Sent

KINDS = ("lost", "doubled", "mismatched", "regressed", "missing", "miscounted")
"""lost: a row of the buffer, or a dead letter, that is not there. doubled: a row that should not be, or is twice.
mismatched: a window, its summary, an embedding or a dead letter that says something else. regressed: a record whose
`covers` or `as_of` is behind an earlier one's, or a null behind a newer record. missing: an embedding that is not
served. miscounted: a number of the account."""
Place = tuple[str, int, int]
"""Of a raw message: the topic's name in `covers`, partition, offset."""
SHOWN = 20
COSINE = 0.9999


class Verdict:
    """Counts, and the first details of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.details: list[str] = []

    def add(self, kind: str, detail: str, times: int = 1) -> None:
        """Something of a kind in KINDS was found."""
        assert kind in KINDS
        self.counts[kind] += times
        if len(self.details) < SHOWN:
            self.details.append(f"{kind}: {detail}")

    def __str__(self) -> str:
        return ", ".join(f"{kind} {self.counts[kind]}" for kind in KINDS)

    def demand_innocence(self) -> None:
        """Raises AssertionError that tells everything."""
        assert not self.counts, "\n".join([str(self), *self.details])


def compare_windows(verdict: Verdict, got: Mapping[str, UserWindow], want: Mapping[str, UserWindow]) -> None:
    """Row for row; `ingested_at` is the wall's and left out."""
    for user in got.keys() | want.keys():
        is_, be = (windows[user].modalities if user in windows else {} for windows in (got, want))
        for name in is_.keys() | be.keys():
            _compare_window(verdict, f"{user} {name}", is_.get(name), be.get(name))


def _compare_window(verdict: Verdict, where: str, got: ModalityWindow | None, want: ModalityWindow | None) -> None:
    if got is None or want is None:
        there = want or got
        assert there is not None
        verdict.add("lost" if got is None else "doubled", f"{where}: the whole window", max(1, len(there.names)))
        return
    held, due = Counter(got.names), Counter(want.names)
    if lost := due - held:
        verdict.add("lost", f"{where}: {sorted(lost)[:3]}", lost.total())
    if doubled := held - due:
        verdict.add("doubled", f"{where}: {sorted(doubled)[:3]}", doubled.total())
    if lost or doubled:
        return
    same = {
        "order": got.names == want.names,
        "ts": np.array_equal(got.ts, want.ts),
        "vectors": np.array_equal(got.vectors, want.vectors),
        "numbers": np.array_equal(got.numbers, want.numbers, equal_nan=True),
        "vector sum": np.array_equal(got.summary.vector_sum, want.summary.vector_sum),
        "rows and times": got.summary[:3] == want.summary[:3],
        "number sums": got.summary.number_sums == want.summary.number_sums,
        "number counts": got.summary.number_counts == want.summary.number_counts,
        "covers": got.summary.covers == want.summary.covers,
    }
    if wrong := [what for what, is_so in same.items() if not is_so]:
        verdict.add("mismatched", f"{where}: {', '.join(wrong)}; {got.summary.covers} for {want.summary.covers}")


def compare_served(
    verdict: Verdict,
    served: Mapping[tuple[str, str], Mapping[str, Any]],
    want: Mapping[str, Expected],
    scenarios: Sequence[str],
) -> None:
    """Embeddings as they are served, by (user, scenario). scenarios: in the order of the vectors."""
    due = {(user, scenario) for user in want for scenario in scenarios}
    for place in due - served.keys():
        verdict.add("missing", f"{place} is not served")
    for place in served.keys() - due:
        verdict.add("mismatched", f"{place} is served, and nothing is known of the user")
    for user, e in want.items():
        for scenario, vector in zip(scenarios, e.vectors, strict=True):
            if (record := served.get((user, scenario))) is None:
                continue
            got = np.asarray(record["vector"], np.float32)
            cosine = float(got @ vector / np.linalg.norm(got) / np.linalg.norm(vector))
            same = {
                f"cosine {cosine}": cosine >= COSINE,
                "events": record["events"] == e.window.events,
                f"as_of {record['as_of']} for {e.window.as_of}": record["as_of"] == e.window.as_of,
                "newest event": record.get("newest_event", record["as_of"]) == e.window.newest_event,
                "covers": record["covers"].items() >= e.window.covers.items(),
            }
            if wrong := [what for what, is_so in same.items() if not is_so]:
                verdict.add("mismatched", f"{user} {scenario}: {', '.join(wrong)}")


def compare_account(
    verdict: Verdict,
    got: AccountReport,
    sent: Sequence[Sent],
    letters: Mapping[Place, str],
    sources: Mapping[str, str],
) -> None:
    """What became of everything: each message once. sources: {raw topic: what it is called in `covers` now}."""
    if not (got.adds_up and got.settled and not got.totals()["uncounted"]):
        verdict.add("miscounted", f"it does not add up: {got.to_dict()}")
    of_source = {source: topic for topic, source in sources.items()}  # what came of an earlier topic is gone with it
    now = [one for one in sent if one.source in of_source]
    refused = Counter((of_source[source], code) for (source, _, _), code in letters.items() if source in of_source)
    expected = {
        "published": Counter(of_source[one.source] for one in now),
        "refused": refused,
        "accepted": Counter(of_source[one.source] for one in now) - Counter(_topics(refused)),
    }
    found = {
        "published": Counter({t.topic: t.published for t in got.topics if t.published}),
        "refused": Counter({(t.topic, code): n for t in got.topics for code, n in t.refused.items()}),
        "accepted": Counter({t.topic: t.accepted for t in got.topics if t.accepted}),
    }
    for what, counts in expected.items():
        if found[what] != counts:
            verdict.add("miscounted", f"{what}: {found[what]} for {counts}")
    repeated, total = sum(one.message.fate == "duplicate" for one in now), got.totals()
    # a repeated event may come after the first has left the window
    if total["duplicate"] + total["conflicting"] > repeated:
        verdict.add("miscounted", f"{total} for {repeated} events that were sent twice")


def _topics(refused: Mapping[tuple[str, str], int]) -> dict[str, int]:
    return {topic: sum(n for (t, _), n in refused.items() if t == topic) for topic, _ in refused}


def compare_letters(verdict: Verdict, got: Mapping[Place, str], want: Mapping[Place, str]) -> None:
    """Dead letters: error by place of the raw message."""
    for place in want.keys() - got.keys():
        verdict.add("lost", f"no dead letter of {place}, {want[place]}")
    for place in got.keys() - want.keys():
        verdict.add("mismatched", f"a dead letter of {place}, {got[place]}, which was accepted")
    for place in got.keys() & want.keys():
        if got[place] != want[place]:
            verdict.add("mismatched", f"dead letter of {place}: {got[place]} for {want[place]}")
