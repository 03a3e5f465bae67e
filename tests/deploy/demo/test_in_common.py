"""What the demo says that nearest households have in common."""

from __future__ import annotations

from deploy.demo.in_common import DAY_MS, FIGURES, Behaviour, behaviours, compare


def test_figures_are_of_the_last_28_days_or_of_everything() -> None:
    now = 100 * DAY_MS

    def event(user: str, days_ago: float, modality: str, **more: object) -> dict[str, object]:
        return {"user_id": user, "ts": int(now - days_ago * DAY_MS), "modality": modality} | more

    found = behaviours(
        [
            event("a", 99, "campaign"),
            event("a", 40, "payment", amount=50.0, coupon_saved=1.0),
            event("a", 39, "redemption"),
            event("a", 20, "payment", amount=10.0, coupon_saved=0.0),
            event("a", 2, "payment", amount=5.5, coupon_saved=0.5),
            event("b", 0, "profile"),
        ]
    )
    assert found["a"] == Behaviour(2, 15.5, 1, 1, 1, 2.0)
    assert found["b"] == Behaviour(silent_days=99.0)


def test_a_household_its_nearest_and_all_stand_beside_each_other() -> None:
    found = {"a": Behaviour(visits=2), "b": Behaviour(visits=4), "c": Behaviour(visits=0)}
    rows = compare(found, "a", ["b", "gone"])
    assert [row[0] for row in rows] == list(FIGURES)
    assert rows[0][1:] == ("2.0", "4.0", "2.0")
    assert compare(found, "a", [])[0][2] == "-"
