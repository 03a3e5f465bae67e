"""Scenarios as examples, in the words of the data's own domain as far as its names tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from deploy.init.words import said, words

_PEOPLE = said(
    "customer member client subscriber household player patient passenger guest student driver rider visitor"
)


class Example(NamedTuple):
    """A scenario: name and query, {person} to be filled in."""

    name: str
    query: str


class Domain(NamedTuple):
    """What its names are, and who its users are where the data does not say."""

    name: str
    names: frozenset[str]
    person: str
    examples: tuple[Example, ...]


DOMAINS = (
    Domain(
        "a shop",
        frozenset(
            said(
                "order orders invoice purchase cart checkout product products sku basket quantity price"
                " retail stock coupon discount item brand shop store category"
            )
        ),
        "customer",
        (
            Example("buys_again", "Will this {person} buy again in the next month?"),
            Example("churn", "Will this {person} stop buying in the next three months?"),
            Example("next_interest", "Which kind of product will this {person} look for next?"),
        ),
    ),
    Domain(
        "payments",
        frozenset(
            said(
                "merchant merchants payment payments card iban balance loan credit debit transfer mcc"
                " bank account fraud repayment transaction currency"
            )
        ),
        "customer",
        (
            Example("credit_risk", "Will this {person} fall behind on a repayment in the next month?"),
            Example("unusual", "Does this {person} pay differently from before?"),
            Example("needs", "Which financial product does this {person} need next?"),
        ),
    ),
    Domain(
        "media",
        frozenset(
            said(
                "song track artist album play listen stream video watch movie film episode genre rating"
                " podcast program channel playlist"
            )
        ),
        "subscriber",
        (
            Example("taste", "What does this {person} like to watch or listen to?"),
            Example("churn", "Will this {person} cancel in the next month?"),
            Example("next_choice", "What will this {person} choose next?"),
        ),
    ),
    Domain(
        "games",
        frozenset(said("level game player match quest score battle kills guild achievement")),
        "player",
        (
            Example("churn", "Will this {person} stop playing in the next week?"),
            Example("pays", "Will this {person} buy something in the game?"),
        ),
    ),
    Domain(
        "travel",
        frozenset(said("trip ride station flight hotel booking route destination origin airport stay bike")),
        "traveller",
        (
            Example("travels_again", "Will this {person} travel again in the next month?"),
            Example("commuter", "Does this {person} travel to work?"),
        ),
    ),
    Domain(
        "health",
        frozenset(said("patient diagnosis drug dose visit clinic hospital lab medication procedure symptom")),
        "patient",
        (
            Example("returns", "Will this {person} come back within a month?"),
            Example("needs_attention", "Does this {person} need attention soon?"),
        ),
    ),
    Domain(
        "an application",
        frozenset(said("page url path screen click session referrer browser view app button feature event search")),
        "user",
        (
            Example("converts", "Will this {person} sign up or buy in the next week?"),
            Example("churn", "Will this {person} stop coming in the next month?"),
            Example("interest", "What is this {person} looking for?"),
        ),
    ),
)
ANY = Domain(
    "no domain that the names tell",
    frozenset(),
    "user",
    (
        Example("churn", "Will this {person} stop coming in the next month?"),
        Example("next_step", "What will this {person} do next?"),
    ),
)


def examples(names: Iterable[str], user: str) -> tuple[str, list[Example]]:
    """The domain, and scenarios for it. names: of fields, kinds, files. user: field of the user."""
    found = {word for name in names for part in name.split(".") for word in words(part)}
    domain = max(DOMAINS, key=lambda domain: len(domain.names & found))
    if not domain.names & found:
        domain = ANY
    person = next((word for word in _PEOPLE if word in words(user)), domain.person)
    return domain.name, [Example(name, query.format(person=person)) for name, query in domain.examples]
