"""Who waits for news of which user, so that a request for what is not there yet need not ask again and again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Watchers:
    """Callbacks by user. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_user: dict[str, list[Callable[[], object]]] = {}

    @contextmanager
    def watch(self, user_id: str, notify: Callable[[], object]) -> Iterator[None]:
        """Within this context `notify` is called whenever this user is told of; on the teller's thread: be quick."""
        with self._lock:
            self._by_user.setdefault(user_id, []).append(notify)
        try:
            yield
        finally:
            with self._lock:
                waiting = self._by_user[user_id]
                waiting.remove(notify)
                if not waiting:
                    del self._by_user[user_id]

    def tell(self, user_ids: Iterable[str]) -> None:
        """There is news of these users. Once a context has been left, its callback is not called any more."""
        if not self._by_user:
            return
        with self._lock:
            for user_id in user_ids:
                for notify in self._by_user.get(user_id, ()):
                    notify()

    def __len__(self) -> int:
        """Users waited for."""
        return len(self._by_user)
