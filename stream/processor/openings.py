"""Partitions on their way to being open: restored in a thread of its own, while batches of the others go on.

The batch thread takes a partition over when its buffer is near the end of its log: what is left to read then is little.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from store.base.stop import AnyOf, Stop, Stopped, obey
from store.buffer.token_buffer import TokenBuffer
from stream.processor.partition import PartitionConfig
from stream.token_log.restore import records_left, restore
from stream.token_log.standby import Standby


class Openings:
    """`begin` may be called from any thread, everything else from the batch thread.

    Args:
        standby: has the buffers of partitions that are not open here.
        on_failure: called in the thread with what must not happen.
    """

    def __init__(
        self,
        config: PartitionConfig,
        standby: Standby | None = None,
        *,
        on_failure: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._standby = standby
        self._on_failure = on_failure
        self._under_way: dict[int, Future[TokenBuffer]] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1, "restore")

    def begin(self, numbers: Sequence[int], stop: Stop, near: Callable[[int], None]) -> None:
        """Restore these partitions but for what is under way already, those with the least left to read first.

        Args:
            stop: once set, the rest is given up.
            near: called in the thread with each partition that can be taken.
        """
        with self._lock:
            futures = {number: Future[TokenBuffer]() for number in numbers if number not in self._under_way}
            self._under_way |= futures
        if futures:
            self._thread.submit(self._restore, futures, AnyOf(stop, self._closing), near)

    def take(self, number: int) -> TokenBuffer:
        """The buffer of a partition, for the caller to close or `leave`. Waits where its restore is under way.

        One that was not begun is opened as it is.

        Raises:
            Stopped: it was given up. StateError: as `PartitionBuffers.open`.
        """
        with self._lock:
            future = self._under_way.pop(number, None)
        return self._open(number) if future is None else future.result()

    def leave(self, number: int, buffer: TokenBuffer) -> None:
        """To the standby if there is one; else it is closed."""
        if self._standby is not None and not self._closing.is_set():
            self._standby.give(number, buffer)
        else:
            buffer.close()

    def give_up(self, numbers: Collection[int]) -> None:
        """Leave those of these that nobody took. Their `stop` is set, so none of them is restored much longer."""
        with self._lock:
            futures = {number: self._under_way.pop(number) for number in numbers if number in self._under_way}
        for number, future in futures.items():
            if future.exception() is None:
                self.leave(number, future.result())

    def close(self) -> None:
        """Give up all, and end the thread."""
        self._closing.set()
        self.give_up(list(self._under_way))
        self._thread.shutdown()

    # In the thread

    def _restore(self, futures: dict[int, Future[TokenBuffer]], stop: Stop, near: Callable[[int], None]) -> None:
        connection, topic = self._config.connection, self._config.topics.tokens
        buffers: dict[int, TokenBuffer] = {}
        try:
            for number in futures:
                obey(stop)
                buffers[number] = self._open(number)
            left = records_left(connection, topic, buffers)
            for number in sorted(buffers, key=left.__getitem__):
                obey(stop)
                if (
                    left[number]
                    and not restore(connection, topic, number, buffers[number], stop=stop, finish=False).complete
                ):
                    raise Stopped
                futures[number].set_result(buffers.pop(number))
                near(number)
        except BaseException as exc:
            for number, buffer in buffers.items():
                self.leave(number, buffer)
            with self._lock:
                for number, future in futures.items():
                    if not future.done():
                        if self._under_way.get(number) is future:
                            del self._under_way[number]
                        future.set_exception(exc)
            if not isinstance(exc, Stopped):
                self._on_failure(exc)

    def _open(self, number: int) -> TokenBuffer:
        standing_by = self._standby.take(number) if self._standby is not None else None
        return standing_by or self._config.buffers.open(number)
