"""Files by their names: what is in them, and how they are compressed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import PurePath
from typing import NamedTuple

from store.base.errors import ConfigError
from stream.replay.byte_source import COMPRESSIONS, ByteSource
from stream.replay.csv_rows import CsvRows, delimiter_of
from stream.replay.json_lines import JsonLines
from stream.replay.parquet_rows import ParquetRows
from stream.replay.row_file import STDIN, RowFile


class Format(StrEnum):
    """What is in a file."""

    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


_FORMATS = {
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".parquet": Format.PARQUET,
}
SUPPORTED = ".jsonl, .csv and .parquet (also .ndjson, .tsv), each plain or with .gz, .zst or .bz2; - for standard input"


class FileOptions(NamedTuple):
    """format: instead of the suffix's. delimiter: of CSV; None = the suffix's. encoding: of CSV."""

    format: Format | None = None
    delimiter: str | None = None
    encoding: str = "utf-8"


def open_rows(path: str, options: FileOptions | None = None) -> RowFile:
    """The rows of a file.

    Raises:
        ConfigError: the suffix is none that is known. NotFoundError: there is no such file.
        AnchorstreamError: `file_unreadable`.
    """
    options = options or FileOptions()
    form, compression, delimiter = kind_of(path, options.format)
    source = ByteSource(path, compression)
    if form is Format.PARQUET:
        return ParquetRows(source)
    if form is Format.CSV:
        chosen = delimiter if options.delimiter is None else delimiter_of(options.delimiter)
        return CsvRows(source, delimiter=chosen, encoding=options.encoding)
    return JsonLines(source)


def kind_of(path: str, form: Format | None = None) -> tuple[Format, str, str]:
    """Format, compression (empty = none) and delimiter by the name. Pure. Raises ConfigError."""
    if path == STDIN:
        return form or Format.JSONL, "", ","
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    compression = COMPRESSIONS.get(suffixes[-1], "") if suffixes else ""
    last = (suffixes[:-1] if compression else suffixes)[-1:]
    found = form or (_FORMATS.get(last[0]) if last else None)
    if found is None:
        what = f"ends in {last[0]}" if last else "has no suffix that says what is in it"
        raise ConfigError(
            f"{path} {what}; supported are {SUPPORTED}", action="rename it, or say --format jsonl, csv or parquet"
        )
    return found, compression, "\t" if last == [".tsv"] else ","
