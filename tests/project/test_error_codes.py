"""docs/errors.md names every error code there is, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from stream.rejection import ErrorCode

ROOT = Path(__file__).parents[2]
NOT_ERRORS = {"stopped"}
"""Codes by which a blocked call obeys a stop; nobody sees them."""


def documented(section: str) -> set[str]:
    text = (ROOT / "docs" / "errors.md").read_text()
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]*`) \|", part, re.MULTILINE)
    return {code for cell in cells for code in re.findall(r"`([a-z_0-9]+)`", cell)}


def raised() -> set[str]:
    """`code = "…"` of error classes and `code="…"` of error constructors, a constant of the module in its place too."""
    codes = set()
    for folder in ("stream", "store", "encoder", "deploy"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            named = {
                target.id: statement.value.value
                for statement in tree.body
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
                for target in statement.targets
                if isinstance(target, ast.Name)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    codes |= {
                        statement.value.value
                        for statement in node.body
                        if isinstance(statement, ast.Assign)
                        and isinstance(statement.value, ast.Constant)
                        and any(isinstance(t, ast.Name) and t.id == "code" for t in statement.targets)
                    }
                elif isinstance(node, ast.Call) and "Error" in ast.unparse(node.func):
                    codes |= {
                        named.get(part.id) if isinstance(part, ast.Name) else part.value
                        for keyword in node.keywords
                        if keyword.arg == "code"
                        for part in ast.walk(keyword.value)
                        if isinstance(part, ast.Constant | ast.Name) and not isinstance(keyword.value, ast.Compare)
                    }
    return {code for code in codes if isinstance(code, str)} - NOT_ERRORS


def test_every_reason_for_a_dead_letter_is_documented() -> None:
    assert documented("Refused events") == set(ErrorCode)


def test_every_failure_is_documented() -> None:
    assert documented("Failures") == raised()


def test_every_code_has_a_docstring() -> None:
    source = ast.parse((ROOT / "stream" / "rejection.py").read_text())
    enum = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "ErrorCode")
    members = [i for i, node in enumerate(enum.body) if isinstance(node, ast.Assign)]
    assert len(members) == len(ErrorCode)
    for i in members:
        following = enum.body[i + 1]
        assert isinstance(following, ast.Expr)
        assert isinstance(following.value, ast.Constant)
