"""`anchorstream doctor`."""

from __future__ import annotations

from deploy.commands.common import Common, load_settings

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def doctor(*, common: Common | None = None) -> int:
    """Check configuration, broker, topics, state, device and weights; say what to do about each fault."""
    from deploy import output
    from deploy.operate.doctor import diagnose

    common = common or Common()
    config = common.config
    findings = []
    for finding in diagnose(lambda: load_settings(config)):
        findings.append(finding)
        if not common.json:
            output.note_result(f"{MARKS[finding.level]}  {finding.name}: {finding.detail}")
            if finding.action:
                output.note_result(f"      → {finding.action}")
    failed = any(finding.level == "fail" for finding in findings)
    if common.json:
        output.write_json({"ok": not failed, "findings": [finding.to_dict() for finding in findings]})
    return 1 if failed else 0
