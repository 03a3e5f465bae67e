"""Arrow columns → what JSON can hold of them, without loss or guess. Pure.

| Arrow | JSON |
|---|---|
| integers, booleans, texts | as they are |
| floats | as they are; NaN, which tables write for "nothing", is left out; infinities are texts |
| decimals | texts, exact |
| time stamps | RFC 3339; UTC with `Z` where the column has a zone, else without an offset (`ts_zone` says it) |
| dates, times of day | `2025-11-21`, `10:00:00.000` |
| durations | integers of the column's unit |
| bytes | as text where they are UTF-8, else base64 |
| lists, structs, maps | arrays, objects; a map whose keys are no texts: an array of [key, value] |
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.types as kinds

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def json_values(column: pa.Array) -> list[Any]:
    """The values of a column; None where there is none. Raises pa.ArrowException."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return json_values(column.storage)
    if kinds.is_dictionary(kind):
        return json_values(column.dictionary_decode())
    if kinds.is_struct(kind):
        return _structs(column)
    if kinds.is_map(kind):
        return _maps(column)
    if kinds.is_fixed_size_list(kind):
        return json_values(column.cast(pa.list_(kind.value_type)))
    if kinds.is_list(kind) or kinds.is_large_list(kind):
        return _lists(column, json_values(column.values))
    if kinds.is_timestamp(kind):
        zone = "Z" if kind.tz is not None else ""
        return _each(column.cast(pa.int64()), lambda value: moment(value, kind.unit) + zone)
    if kinds.is_duration(kind):
        return _each(column.cast(pa.int64()), lambda value: value)
    if kinds.is_date(kind):
        return _each(column.cast(pa.date32()).cast(pa.int32()), lambda days: moment(days * 86_400, "s").split("T")[0])
    if kinds.is_time(kind):
        return _each(column.cast(pa.int32() if kind.bit_width == 32 else pa.int64()), lambda v: clock(v, kind.unit))
    if kinds.is_decimal(kind):
        return _each(column, _decimal)
    if kinds.is_floating(kind):
        return _each(column, _float)
    if kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind):
        return _each(column, _bytes)
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:  # a writer that called bytes a text
        return _each(column.cast(pa.binary()), _bytes)
    return values


def moment(value: int, unit: str) -> str:
    """A number of units since 1970 as RFC 3339 without an offset: milliseconds, or as fine as it takes."""
    seconds, fraction = divmod(value, _PER_SECOND[unit])
    try:
        whole = (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    except OverflowError:  # no year of four digits
        return f"{value} {unit} since 1970"
    return whole.rjust(19, "0") + _fraction(fraction, unit)


def clock(value: int, unit: str) -> str:
    """A number of units since midnight as a time of day."""
    seconds, fraction = divmod(value, _PER_SECOND[unit])
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}" + _fraction(fraction, unit)


def _fraction(value: int, unit: str) -> str:
    nanoseconds = value * (10**9 // _PER_SECOND[unit])
    for digits in (3, 6):
        if nanoseconds % 10 ** (9 - digits) == 0:
            return f".{nanoseconds // 10 ** (9 - digits):0{digits}}"
    return f".{nanoseconds:09}"


def _each(column: pa.Array, of: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else of(value) for value in column.to_pylist()]


def _float(value: float) -> float | str | None:
    if math.isfinite(value):
        return float(value)
    return None if math.isnan(value) else str(value)


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _bytes(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return base64.b64encode(value).decode()


def _structs(column: pa.Array) -> list[Any]:
    names = [field.name for field in column.type]
    fields = [json_values(field) for field in column.flatten()]
    if not fields:
        return [None if absent else {} for absent in column.is_null().to_pylist()]
    rows = zip(column.is_valid().to_pylist(), *fields, strict=True)
    return [
        {name: value for name, value in zip(names, values, strict=True) if value is not None} if valid else None
        for valid, *values in rows
    ]


def _lists(column: pa.Array, values: list[Any]) -> list[Any]:
    offsets, valid = column.offsets.to_pylist(), column.is_valid().to_pylist()
    return [values[start:end] if ok else None for start, end, ok in zip(offsets, offsets[1:], valid, strict=False)]


def _maps(column: pa.Array) -> list[Any]:
    keys = json_values(column.keys)
    pairs = list(zip(keys, json_values(column.items), strict=True))
    if all(isinstance(key, str) for key in keys):
        return [of and {key: value for key, value in of if value is not None} for of in _lists(column, pairs)]
    return [of and [[*pair] for pair in of] for of in _lists(column, pairs)]
