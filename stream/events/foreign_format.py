"""What bytes or maps are that are no event of ours: the wrapping is named, and what to do about it. Pure.

Asked only when an event has been refused, so that a good one pays nothing.
"""

from __future__ import annotations

from typing import Any

_MAGIC = (
    (b"\x1f\x8b", "gzip: compress in Kafka (the producer's compression.type), not the value"),
    (b"\x28\xb5\x2f\xfd", "zstandard: compress in Kafka (the producer's compression.type), not the value"),
    (b"\x04\x22\x4d\x18", "lz4: compress in Kafka (the producer's compression.type), not the value"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy: compress in Kafka (the producer's compression.type), not the value"),
    (b"BZh", "bzip2: compress in Kafka (the producer's compression.type), not the value"),
    (b"Obj\x01", "an Avro file: send one JSON object or msgpack map a message"),
    (b"PAR1", "a Parquet file: send one JSON object or msgpack map a message"),
    (b"\xff\xfe", "UTF-16 text: send UTF-8"),
    (b"\xfe\xff", "UTF-16 text: send UTF-8"),
    (b"<", "XML: send one JSON object or msgpack map a message"),
)
_FRAME = 5
"""Schema Registry: a zero byte and a schema's id of 4 bytes before the data."""


def of_bytes(value: bytes) -> str | None:
    """Of what could not be decoded; None if nothing is recognised."""
    if value[0] == 0 and len(value) > _FRAME:
        schema = int.from_bytes(value[1:_FRAME], "big")
        return (
            f"Schema Registry framing (schema {schema}, {_framed(value[_FRAME:])}): send plain JSON, with Connect"
            " JsonConverter and schemas.enable=false"
        )
    for magic, what in _MAGIC:
        if value.startswith(magic):
            return what
    if _is_csv(value):
        return "CSV: send one JSON object a message"
    if any(byte < 9 or 13 < byte < 32 for byte in value[:64]):
        return "binary (Protobuf or Avro?): send one JSON object or msgpack map a message"
    return None


def of_json(value: Any) -> str | None:
    """Of JSON that is no object."""
    if isinstance(value, list):
        return f"an array of {len(value)}: send one event a message"
    if isinstance(value, str) and value.lstrip().startswith("{"):
        return "a JSON string that holds JSON: it was encoded twice"
    return None


def of_map(raw: dict[str, Any]) -> str | None:
    """Of a map that lacks what an event needs."""
    if raw.keys() == {"schema", "payload"}:
        inside = raw["payload"]
        if isinstance(inside, dict) and _is_debezium(inside):
            what = "a Debezium change event with its schema: use ExtractNewRecordState, and schemas.enable=false"
            return f"{what}; or name payload.after.FIELD in [mapping]"
        what = "Kafka Connect's {schema, payload}: set schemas.enable=false in its JsonConverter"
        return f"{what}; or name payload.FIELD in [mapping]"
    if _is_debezium(raw):
        what = "a Debezium change event: use its ExtractNewRecordState transform, which sends the row alone"
        return f"{what}; or name after.FIELD in [mapping]"
    if raw.keys() >= {"specversion", "type", "source", "data"}:
        return "a CloudEvent: send its data alone, or use the binary mode; or name data.FIELD in [mapping]"
    return None


def _is_debezium(raw: dict[str, Any]) -> bool:
    return "op" in raw and "source" in raw and ("after" in raw or "before" in raw)


def _framed(data: bytes) -> str:
    return "JSON" if data[:1] == b"{" else "Avro or Protobuf"


def _is_csv(value: bytes) -> bool:
    try:
        text = value.decode().lstrip("\ufeff \r\n")
    except UnicodeDecodeError:
        return False
    return text[:1] not in ("{", "[", '"') and max(map(text.count, ",;\t")) >= 2
