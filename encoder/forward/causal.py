"""The paper's layout, for comparison: [user][modalities][events by modality] as one causal prefix, then the segments.

Positions count tokens. The prefix is computed once and its keys serve every scenario; any new event changes the first
token, so nothing survives between refreshes. Same weights, same forward: the prefix is planned as one long chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encoder.forward.plan import EventRows, Layout, add_rows
from encoder.forward.tail import Tail
from encoder.forward.user_tokens import UserTokens


def causal(users: Sequence[UserTokens], tail: Tail, modalities: int) -> Layout:
    """Layout of a forward.

    Args:
        tail: built with lead 0. modalities: of the model.
    """
    events = [EventRows() for _ in range(modalities)]
    summaries = modalities + 1
    lengths = np.array([summaries + user.rows for user in users], np.int64)
    starts = np.cumsum(lengths) - lengths
    for user, start in zip(users, starts.tolist(), strict=True):
        n = start + summaries
        for part in user.parts:
            count = len(part.window.ts)
            add_rows(events, part, slice(None), np.arange(n, n + count))
            n += count
    total = int(lengths.sum())
    offsets = tail.offsets.cpu().numpy()
    # Summaries are embedded in the order [modalities][user]; the paper puts the user first.
    places = starts[:, None] + np.roll(np.arange(summaries), -1)
    tails = total + tail.length * np.arange(len(users), dtype=np.int64)
    return Layout(
        new_tokens=total,
        events=events,
        positions=np.concatenate(
            [np.arange(n, dtype=np.float64) for n in lengths] + [n + offsets for n in lengths.astype(np.float64)]
        ),
        summary_places=places.reshape(-1),
        segment_places=(tails[:, None] + np.arange(tail.length)).reshape(-1),
        first=starts,
        length=lengths,
        reused=np.zeros_like(lengths),
        base=starts,
        prefixes=[np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)],
        slots=None,
    )
