"""What users' embeddings are brought to, and what a committed offset says about it.

A *target* is a scenario under a registration, by a model, in a topic. Per partition a target has a *standing*:
complete, or a back-fill under way, named by its attempt. It travels in the metadata of the worker's committed `tokens`
offset:

    Below the offset, the newest record of every user and complete target is by that target's model. Of a target under
    way the same holds for the users that its cursor has passed, on the disk of whoever knows that attempt. Of any other
    target nothing is known.

So who takes a partition over resumes a back-fill if its own disk has the cursor of the attempt, begins it anew if not,
and does nothing for what is complete. A worker of other targets (another model, registration or topic) drops those it
does not have before it publishes anything: whoever comes back to them later begins anew, with a new attempt.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stream.commit_metadata import MAX_WAITING, without_waiting

COMPLETE = 0
_PREFIX = "1:"
_DIGEST_BYTES = 6
_ENTRY_BYTES = _DIGEST_BYTES + 2
MAX_METADATA = 4096
"""Kafka's default `offset.metadata.max.bytes`."""
MAX_ENTRIES = (MAX_METADATA - len(_PREFIX) - MAX_WAITING) // 4 * 3 // _ENTRY_BYTES

Standings = Mapping[bytes, int]
"""Target's digest → COMPLETE, or the attempt of a back-fill under way, 1 to 65535."""


class Target(NamedTuple):
    """scenario: with `@candidate` if it is one's. registration: see store/records/scenario.py. model: model id.

    topic: id of the topic that it goes to; "" where that is not known.
    """

    scenario: str
    registration: int
    model: str
    topic: str = ""

    @property
    def digest(self) -> bytes:
        """Short and stable; two targets have the same with probability 2^-48."""
        text = "|".join((self.scenario, str(self.registration), self.model, *filter(None, (self.topic,))))
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def pack(standings: Standings) -> str:
    """Commit metadata. What does not fit (see MAX_ENTRIES) is left out: it is back-filled again by the next owner."""
    kept = sorted(standings.items(), key=lambda item: (item[1] != COMPLETE, item[0]))[:MAX_ENTRIES]
    raw = b"".join(digest + attempt.to_bytes(2, "big") for digest, attempt in kept)
    return _PREFIX + base64.b64encode(raw).decode()


def unpack(metadata: str | None) -> dict[bytes, int]:
    """Inverse of `pack`, whatever waits behind it; metadata of another version says nothing."""
    metadata = without_waiting(metadata)
    if metadata is None or not metadata.startswith(_PREFIX):
        return {}
    try:
        raw = base64.b64decode(metadata.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return {}
    if len(raw) % _ENTRY_BYTES:
        return {}
    entries = [raw[at : at + _ENTRY_BYTES] for at in range(0, len(raw), _ENTRY_BYTES)]
    return {entry[:_DIGEST_BYTES]: int.from_bytes(entry[_DIGEST_BYTES:], "big") for entry in entries}


def carried_on(found: Standings, targets: Iterable[Target]) -> dict[bytes, int]:
    """Standings of exactly these targets: as found, be it before the topic's id was known, or a new attempt."""
    out = {}
    for target in targets:
        digests = (target.digest, target._replace(topic="").digest)
        known = next((found[digest] for digest in digests if digest in found), None)
        out[target.digest] = new_attempt() if known is None else known
    return out


def new_attempt() -> int:
    """Any but COMPLETE. A cursor of a former attempt is taken for one of this with probability 2^-16."""
    return random.SystemRandom().randint(1, 0xFFFF)
