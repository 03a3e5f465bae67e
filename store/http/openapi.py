"""Writes the API's description to standard output: `python -m store.http.openapi > tests/store/http/openapi.json`."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from store.base.settings import ServeSettings
from store.http.app import create_app
from store.http.service import Service
from store.index.back_fill_board import BackFillBoard
from store.index.catalog import Catalog
from store.index.field_board import FieldBoard
from store.index.freshness import PendingEvents


def description() -> dict[str, Any]:
    """The OpenAPI document; it does not depend on scenarios or settings."""
    tracker = PendingEvents((), lambda _scenario, _user: None)
    return create_app(
        Service(ServeSettings(), Catalog(), tracker, dict, dict, threading.Event(), BackFillBoard(1), FieldBoard())
    ).openapi()


def main() -> None:
    """Print it, keys sorted."""
    json.dump(description(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
