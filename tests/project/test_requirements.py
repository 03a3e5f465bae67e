"""The lock files are hash-pinned, and name no index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda p: p.name)
def test_every_pin_has_a_hash_and_no_line_names_an_index(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert "index-url" not in text
    blocks = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    pins = [block for block in blocks if block.strip()]
    assert pins
    for pin in pins:
        assert re.match(r"[A-Za-z0-9._-]+(\[[^]]+\])?==", pin), pin.splitlines()[0]
        assert "--hash=sha256:" in pin, pin.splitlines()[0]
