"""Memory shared by all token buffers of a process, and the RocksDB options of each column family."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

import rocksdict

from store.base.settings import StoreSettings
from store.window import layout

KIB, MIB = 1024, 1024 * 1024
_BULK_FILES = 48
"""Table files on level 0 before a bulk load is compacted. It leaves that many, and some more while it compacts."""
_UNSORTED = {layout.ROWS, layout.IDS}
"""Families that a bulk load does not read before they are flushed: their memtables are plain arrays, sorted only then
(reading one would sort a copy of it for each key)."""


@dataclass(frozen=True, slots=True)
class BufferResources:
    """One block cache and one budget of memtables, however many partitions are open.

    sync: fsync every commit. Off: a killed process loses nothing (the page cache is the kernel's); after a power cut
    the newest commits may be gone from this disk, and restoring from the `tokens` log brings them back.
    """

    block_cache: Any
    write_buffers: Any
    write_buffer_bytes: int
    sync: bool = False
    write_options: Any = field(default=None)

    @classmethod
    def create(
        cls, *, block_cache_bytes: int = 128 * MIB, write_buffer_bytes: int = 64 * MIB, sync: bool = False
    ) -> Self:
        """Allocate the shared cache and the shared memtable budget."""
        options = rocksdict.WriteOptions()
        options.sync = sync
        return cls(
            rocksdict.Cache(block_cache_bytes),
            rocksdict.WriteBufferManager(write_buffer_bytes, False),
            write_buffer_bytes,
            sync,
            options,
        )

    @classmethod
    def of(cls, settings: StoreSettings) -> Self:
        """As configured."""
        return cls.create(
            block_cache_bytes=settings.block_cache_bytes,
            write_buffer_bytes=settings.write_buffer_bytes,
            sync=settings.sync_writes,
        )

    def database_options(self, *, bulk: bool = False) -> Any:
        """Options of the database itself. bulk: see `family_options`."""
        options = self._options(bloom=False, bulk=bulk, unsorted=False)
        options.set_allow_concurrent_memtable_write(not bulk)  # unsorted memtables do not support it
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_max_background_jobs(2)
        options.set_atomic_flush(True)  # writes without WAL stay all or nothing across families
        options.set_max_total_wal_size(max(self.write_buffer_bytes, 16 * MIB))
        options.set_max_open_files(256)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(1 * MIB)
        options.set_stats_dump_period_sec(0)
        return options

    def family_options(self, *, bulk: bool = False) -> dict[str, Any]:
        """Options per column family. Only families that are probed by exact key have a bloom filter.

        bulk: for applying much of a log: writes are cheap and nothing is compacted; reading rows is slow.
        """
        probed = {layout.IDS, layout.SUMMARIES}
        return {
            name: self._options(bloom=name in probed, bulk=bulk, unsorted=bulk and name in _UNSORTED)
            for name in layout.FAMILIES
        }

    def _options(self, *, bloom: bool, bulk: bool, unsorted: bool) -> Any:
        options = rocksdict.Options(raw_mode=True)
        options.set_level_zero_slowdown_writes_trigger(8 * _BULK_FILES)  # commits go on over what a bulk load left
        options.set_level_zero_stop_writes_trigger(16 * _BULK_FILES)
        if bulk:
            options.set_level_zero_file_num_compaction_trigger(_BULK_FILES)
            options.set_soft_pending_compaction_bytes_limit(0)
            options.set_hard_pending_compaction_bytes_limit(0)
        if unsorted:
            options.set_memtable_factory(rocksdict.MemtableFactory.vector())
        options.set_write_buffer_manager(self.write_buffers)
        options.set_write_buffer_size(min(self.write_buffer_bytes // 2, 32 * MIB))
        # what is bulk loaded is compressed when it is compacted
        options.set_compression_type(rocksdict.DBCompressionType.none() if bulk else rocksdict.DBCompressionType.lz4())
        options.set_level_compaction_dynamic_level_bytes(True)
        table = rocksdict.BlockBasedOptions()
        table.set_block_cache(self.block_cache)
        table.set_block_size(16 * KIB)
        table.set_format_version(5)
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
        if bloom:
            table.set_bloom_filter(10, False)
        options.set_block_based_table_factory(table)
        return options
