"""Rows of Parquet: each becomes a JSON object of its columns; nulls are left out. Read in batches, never whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any

from store.base.errors import ConfigError
from stream.replay.byte_source import DAMAGED, ByteSource
from stream.replay.row_file import Row, RowFile, unreadable

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20


class ParquetRows(RowFile):
    """Values become JSON as `arrow_json.py` says. One that is compressed as a whole (`.parquet.gz`) is unpacked into a
    temporary file, since Parquet is read from its end.

    Raises:
        ConfigError: a stream. AnchorstreamError: `file_unreadable`, also of a file that was cut short.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        if not source.repeatable:
            raise ConfigError(f"{source.path}: Parquet cannot be read from a stream", action="give a file")
        self._source = source
        self._spooled: IO[bytes] | None = None
        self._rows_read = self._rows_total = 0
        self.path, self.size, self.repeatable = source.path, source.size, True

    @property
    def position(self) -> int:
        """Share of the rows read, as bytes of the file."""
        return int(self.size * self._rows_read / self._rows_total) if self._rows_total else 0

    def check(self, tick: Callable[[], object] = lambda: None) -> None:
        """Unpack it if it is compressed as a whole, and look at its end. Raises AnchorstreamError."""
        tick()
        self._open().close()

    def close(self) -> None:
        """Close the file, and remove what it was unpacked to."""
        self._source.close()
        if self._spooled is not None:
            self._spooled.close()

    def _open(self) -> ParquetFile:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if self._source.compression and self._spooled is None:
                self._spooled = tempfile.TemporaryFile(prefix="anchorstream-")  # noqa: SIM115 (closed by close())
                shutil.copyfileobj(self._source.open(), self._spooled)
            binary: Any = self._spooled or self._source.open()
            binary.seek(0)
            return pq.ParquetFile(
                pa.PythonFile(binary, mode="r"), page_checksum_verification=True, buffer_size=_BUFFER_BYTES
            )
        except (pa.ArrowException, *DAMAGED) as exc:
            at = f"at its end, byte {self.size:,}" if not self._source.compression else "before its first row"
            raise unreadable(self.path, at, exc) from exc

    def _rows(self) -> Iterator[Row | None]:
        import pyarrow as pa

        from stream.replay.arrow_json import json_values

        self._rows_read = 0
        with self._open() as file:
            self._rows_total = file.metadata.num_rows
            names = file.schema_arrow.names
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise unreadable(
                    self.path, "at its end", f"two columns are called {twice[0]!r}", "give each its own name"
                )
            batches = file.iter_batches(BATCH_ROWS, use_threads=False)
            while True:
                try:
                    batch = next(batches, None)
                    columns = None if batch is None else [json_values(column) for column in batch.columns]
                except (pa.ArrowException, *DAMAGED) as exc:
                    raise unreadable(self.path, f"after row {self._rows_read:,}", exc) from exc
                if columns is None:
                    return
                for values in zip(*columns, strict=True):
                    self._rows_read += 1
                    row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
                    yield Row(
                        self.path,
                        self._rows_read,
                        json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=str).encode(),
                    )
