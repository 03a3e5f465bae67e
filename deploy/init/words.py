"""What the names of fields say: words of a name, and which words speak of users, ids, times, people. Pure."""

from __future__ import annotations

import re


def said(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


_BORDER = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_WORD = re.compile(r"[^\W_]+")

PERSON = frozenset(
    said(
        "user users customer cust member client subscriber household hh player patient passenger"
        " guest buyer shopper reader viewer person employee student learner driver rider"
        " cardholder visitor account contact owner fullvisitor uid kunde cliente utilisateur"
        " usuario"
    )
)
"""Who events may be of."""
SECOND_CHOICE = frozenset(said("visitor account owner contact anonymous device cookie card fullvisitor"))
"""Of these only where there is no better one."""
IDENTIFIER = frozenset(
    said(
        "id ids no nr num number key code uuid guid uid sku ref reference identifier hash token"
        " upc ean gtin isbn barcode plu"
    )
)
NO_USER = frozenset(said("session order invoice transaction trans event message msg product item sku request page"))
FUSED = {
    "userid": ("user", "id"),
    "customerid": ("customer", "id"),
    "custid": ("customer", "id"),
    "customerno": ("customer", "no"),
    "memberid": ("member", "id"),
    "clientid": ("client", "id"),
    "accountid": ("account", "id"),
    "visitorid": ("visitor", "id"),
    "fullvisitorid": ("fullvisitor", "id"),
    "deviceid": ("device", "id"),
    "sessionid": ("session", "id"),
    "eventid": ("event", "id"),
    "messageid": ("message", "id"),
    "orderid": ("order", "id"),
    "itemid": ("item", "id"),
    "productid": ("product", "id"),
    "stockcode": ("stock", "code"),
    "zipcode": ("zip", "code"),
    "username": ("user", "name"),
    "firstname": ("first", "name"),
    "lastname": ("last", "name"),
    "fullname": ("full", "name"),
    "emailaddress": ("email", "address"),
    "ipaddress": ("ip", "address"),
}

TIME_FIRST = (
    said("eventtime eventtimestamp eventts eventdatetime eventdate occurredat timestamp ts time datetime"),
    said("originaltimestamp createdat date when at transactiondate orderdate invoicedate purchasedate visitedat"),
)
"""Compact names, the likeliest first."""
TIME = frozenset(said("time timestamp ts date datetime at when day clock epoch moment millis ms zeit datum fecha"))
NO_EVENT_TIME = frozenset(
    said(
        "updated modified received sent ingested processed loaded expires expiry expiration due"
        " birth birthday dob end ended finished delivered delivery shipped last first registered"
        " signup valid until scheduled joined member since"
    )
)
"""Of times of something else than the event."""

KIND = (
    ["event", "eventname", "eventtype"],
    said("type action actiontype activity activitytype kind behavior behaviour behaviortype interaction verb"),
    ["operation", "op", "messagetype", "category"],
)
"""Compact names of fields that say what kind of event it is, the likeliest first."""

CALENDAR = frozenset(said("year month week day hour minute weekday dayofweek quarter"))
"""Parts of a time."""
PERSONAL = frozenset(
    said(
        "email mail phone mobile tel telephone msisdn fax ssn passport iban street surname birth"
        " birthday dob ip password passwd secret firstname lastname fullname nationality licence"
        " license address"
    )
)
NAME_OF_PERSON = frozenset(said("first last full middle given family maiden sur nick"))
FREE_TEXT = frozenset(said("comment comments message note notes body review feedback remark remarks complaint memo"))
SAID_IN_WORDS = frozenset(
    said(
        "query search q keyword keywords term title product item description category subcategory"
        " brand department path page section screen genre artist track song album movie program"
        " topic merchant"
    )
)
"""Of what users do; its many different values are content."""


def words(name: str) -> list[str]:
    """Words of one name in lower case: `CustomerID` → customer, id."""
    found: list[str] = []
    for part in _WORD.findall(_BORDER.sub(" ", _HUMP.sub(" ", name))):
        found += FUSED.get(part.lower(), (part.lower(),))
    return found


def words_of_path(path: str) -> list[str]:
    """Those of the last name, and of the one it lies in."""
    return [word for part in path.split(".")[-2:] for word in words(part)]


def compact(path: str) -> str:
    """The last name in lower case, letters and digits alone."""
    return "".join(_WORD.findall(path.split(".")[-1])).replace("_", "").lower()


def slug(text: str, *, fallback: str, most: int = 40) -> str:
    """As the name of a modality: lower-case letters, digits and _, letter first."""
    plain = re.sub(r"[^a-z0-9]+", "_", " ".join(_HUMP.sub(" ", text).split()).lower()).strip("_")
    plain = plain.lstrip("0123456789_")[:most].rstrip("_")
    return plain or fallback
