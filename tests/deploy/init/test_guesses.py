"""Users, ids, kinds, content and windows, each from columns made up for it."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.init.columns import Table
from deploy.init.content import ContentGuess, guess_content, personal_kind
from deploy.init.document import Entry, Section, render
from deploy.init.event_ids import guess_id
from deploy.init.kinds import guess_kind
from deploy.init.users import guess_users
from deploy.init.windows import DAYS, guess_window
from deploy.init.words import slug, words
from store.base.settings import MAX_EVENTS_LIMIT

ROWS = 600
DAY = 86_400_000


def table(**columns: Any) -> Table:
    """Each column a list, or a function of the row's number."""
    rng = random.Random(0)
    rows = [
        {name: of(n, rng) if callable(of) else of[n % len(of)] for name, of in columns.items()} for n in range(ROWS)
    ]
    return Table({name: value for name, value in row.items() if value is not None} for row in rows)


def test_words_of_names() -> None:
    assert words("CustomerID") == ["customer", "id"]
    assert words("userid") == ["user", "id"]
    assert words("HTTPStatus_code2") == ["http", "status", "code", "2"]
    assert words("Größe der Sendung") == ["größe", "der", "sendung"]


@given(st.text())
def test_a_slug_is_a_name_of_a_modality(text: str) -> None:
    import re

    from store.base.settings import NAME

    assert re.fullmatch(NAME, slug(text, fallback="event"))


@pytest.mark.parametrize(
    ("columns", "user", "integers"),
    [
        ({"userId": ["a", "b", None], "anonymousId": lambda n, rng: f"x{n}"}, "userId", False),
        ({"anonymousId": lambda n, rng: f"x{n % 99}", "colour": ["red", "blue"]}, "anonymousId", False),
        ({"CustomerID": [17850.0, 12931.0, None], "InvoiceNo": lambda n, rng: n // 5}, "CustomerID", True),
        ({"customer_name": ["Ann", "Bob"], "customer_no": ["1.0", "2.0"]}, "customer_no", True),
        ({"household_key": [1, 2, 3], "store_id": lambda n, rng: n}, "household_key", True),
        ({"payload.after.customer_id": [4, 5], "payload.op": ["c"]}, "payload.after.customer_id", True),
        ({"session_id": ["s1", "s2"], "visitor": ["v1", "v2"]}, "visitor", False),
    ],
)
def test_the_user_by_its_name(columns: dict[str, Any], user: str, integers: bool) -> None:
    found = guess_users(table(**columns), ())
    assert found[0].column == user
    assert found[0].integers is integers
    assert found[0].named


def test_the_user_by_its_values() -> None:
    """Many rows a value, far fewer values than rows; neither constant nor nearly unique nor a magnitude."""
    found = guess_users(
        table(
            a=lambda n, rng: rng.randrange(90),
            b=lambda n, rng: rng.random(),
            c=lambda n, rng: f"r{n}",
            d=["x"],
            e=["lunch", "dinner"],
        ),
        (),
    )
    assert [guess.column for guess in found] == ["a"]
    assert not found[0].named


def test_an_id_of_its_own_before_a_combination() -> None:
    found = guess_id(table(u=["a", "b"], t=lambda n, rng: n, message_id=lambda n, rng: f"m{n}"), "u", "t")
    assert found.fields == "message_id"
    found = guess_id(table(u=["a", "b"], t=lambda n, rng: n, id=lambda n, rng: n), "u", "t")
    assert found.fields == ("id",), "integers are named in a list"


def test_the_fewest_fields_that_tell_all_apart() -> None:
    columns = {
        "u": lambda n, rng: n // 20,
        "t": lambda n, rng: n // 10,
        "line": lambda n, rng: n % 10,
        "colour": ["red", "blue"],
        "price": lambda n, rng: float(n % 10),
    }
    found = guess_id(table(**columns), "u", "t")
    assert found.fields == ("u", "t", "line")
    assert guess_id(table(u=lambda n, rng: n // 20, t=lambda n, rng: n), "u", "t").fields == ("u", "t")


def test_rows_that_are_repeated_are_one_event() -> None:
    rows = [{"u": "a", "t": n, "event_id": f"e{n}"} for n in range(50)]
    found = guess_id(Table([*rows, rows[3], rows[3], rows[9]]), "u", "t")
    assert (found.fields, found.repeated, found.conflicting) == ("event_id", 3, 0)


@given(st.lists(st.tuples(*(st.integers(0, 3) for _ in range(4))), min_size=2, max_size=60))
def test_an_id_tells_every_event_from_every_other(rows: list[tuple[int, ...]]) -> None:
    names = ("u", "t", "x", "y")
    found = guess_id(Table(dict(zip(names, row, strict=True)) for row in rows), "u", "t")
    assert found.repeated == len(rows) - len({*rows})
    assert isinstance(found.fields, tuple)
    parts = [tuple(dict(zip(names, row, strict=True))[name] for name in found.fields) for row in {*rows}]
    assert len({*parts}) == len(parts)


def test_kinds() -> None:
    guess, others = guess_kind(table(event=["Page Viewed", "Öl", "page-viewed"], type=["a", "b"], op=["c"]), ())
    assert guess is not None
    assert guess.column == "event"
    assert others == ["type"]
    assert guess.modalities["Page Viewed"] == "page_viewed"
    assert len({*guess.modalities.values()}) == 3, "each its own"
    assert guess_kind(table(event=lambda n, rng: f"e{n % 40}", product_type=["a", "b"]), ())[0] is None
    assert guess_kind(table(event=["a", None], type=["x", "y"]), ())[0] is not None, "type is in every row"


def content(**columns: Any) -> ContentGuess:
    return guess_content(table(**columns).columns, roles=(), times=())


def test_what_becomes_text_and_what_numbers() -> None:
    found = content(
        product=lambda n, rng: f"thing number {n % 300}",
        channel=["app", "web"],
        returning=[True, False],
        amount=lambda n, rng: rng.random() * 100,
        pieces=[1, 2, 3],
        country_code=["de", "fr"],
        coupon=lambda n, rng: 5_000_000_000 + 37 * n,
        stock_code=lambda n, rng: f"85{n % 200}A",
        currency=["EUR"],
        week=lambda n, rng: n // 50,
        tags=[["a", "b"]],
        trace=lambda n, rng: f"{rng.getrandbits(128):032x}",
    )
    assert set(found.numbers) == {"amount", "pieces"}
    assert {said.field for said in found.said} == {"product", "channel", "returning", "country_code"}
    assert "returning {returning}" in found.template
    assert set(found.left_out) == {"coupon", "stock_code", "currency", "week", "tags", "trace"}
    assert found.personal == ()


@pytest.mark.parametrize(
    "columns",
    [
        {"contact": lambda n, rng: f"a{n}@example.org"},
        {"caller": lambda n, rng: f"+49 30 {1000000 + n}"},
        {"src": lambda n, rng: f"10.0.{n % 200}.{n % 99}"},
        {"first_name": ["Ann", "Bob"]},
        {"customer.name": ["Ann", "Bob"]},
        {"homeAddress": ["Main Street 1", "Side Street 2"]},
        {"Email": ["x", "y"]},
    ],
)
def test_what_looks_personal_is_left_out(columns: dict[str, Any]) -> None:
    (column,) = table(**columns).columns.values()
    assert personal_kind(column) is not None
    found = content(**columns, colour=["red", "blue"])
    assert found.personal == (column.name,)
    assert column.name not in found.template


def test_free_text_is_left_out_and_searches_are_not() -> None:
    prose = [f"I would like {n} of the things that I saw in {n} shops, please send me more" for n in range(ROWS)]
    found = content(comment=prose, wish=prose, query=lambda n, rng: f"shoes {n}")
    assert found.template == "{query}"
    assert set(found.left_out) == {"comment", "wish"}


def test_what_is_always_the_same_tells_nothing_also_where_it_lacks_now_and_then() -> None:
    """A country that is empty in one row of fifty came into every text."""
    rows = range(400)
    found = content(
        country=["DE" if i % 50 else None for i in rows],
        rate=[1 if i % 30 else None for i in rows],
        shop=["main"] * 400,
        gift=["yes" if i % 3 == 0 else None for i in rows],
        product=[f"p{i % 7}" for i in rows],
    )
    assert {said.field for said in found.said} == {"gift", "product"}
    assert found.numbers == ()
    assert found.left_out["country"] == "always 'DE', where it is at all (98.0% of the rows)"
    assert found.left_out["shop"] == "always 'main'"


def test_no_more_than_sixteen_numbers() -> None:
    found = content(**{f"n{i}": lambda n, rng: rng.random() for i in range(20)})
    assert len(found.numbers) == 16
    assert len(found.left_out) == 4


@given(
    st.dictionaries(
        st.text(max_size=3), st.lists(st.integers(0, 400 * DAY), min_size=1, max_size=50), min_size=1, max_size=8
    )
)
def test_a_window_holds_what_it_says(times: dict[str, list[int]]) -> None:
    found = guess_window(times)
    assert found.days in DAYS
    assert 1 <= found.max_events <= MAX_EVENTS_LIMIT
    counts: Counter[str] = Counter()
    for user, own in times.items():
        counts[user] = sum(ts >= max(own) - found.days * DAY for ts in own)
    enough = sum(count <= found.max_events for count in counts.values())
    assert enough >= 0.95 * len(times) - 1


def test_windows_follow_the_rates() -> None:
    often = {f"u{u}": [n * 60_000 for n in range(5000)] for u in range(20)}
    seldom = {f"u{u}": [n * 20 * DAY for n in range(40)] for u in range(20)}
    assert guess_window(often).days == 1
    assert guess_window(often).max_events == MAX_EVENTS_LIMIT
    assert guess_window(seldom).days >= 180
    assert guess_window(seldom).max_events <= 50


@given(st.text(), st.text(), st.one_of(st.text(), st.integers(), st.booleans(), st.lists(st.text())), st.text())
def test_a_document_says_what_it_was_given(table_name: str, key: str, value: Any, why: str) -> None:
    """Whatever the data's names and values are: comments hide nothing, keys are quoted."""
    import tomllib

    text = render([Section(("mapping", table_name), [Entry(key, value, why)], why)], head=[why], foot=[why])
    assert tomllib.loads(text) == {"mapping": {table_name: {key: value}}}
