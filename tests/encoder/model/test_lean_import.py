"""What a role imports does not follow what else is installed beside it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from encoder.model.lean_import import without

CODE = """
import sys
import encoder.forward.model_set
print(*(name for name in ("sklearn", "pandas", "pyarrow") if name in sys.modules))
"""


def test_the_model_brings_neither_scikit_learn_nor_pandas_along() -> None:
    pytest.importorskip("sklearn")
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True).stdout
    assert found.split() == []


def test_what_is_hidden_is_there_again_and_what_was_imported_stays() -> None:
    import json

    name = "this"  # of the standard library; nobody imports it
    assert name not in sys.modules
    with without(name, "json"):
        assert importlib.util.find_spec(name) is None
        assert sys.modules["json"] is json
    assert name not in sys.modules
    assert importlib.util.find_spec(name) is not None
