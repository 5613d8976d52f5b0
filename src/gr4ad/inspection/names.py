"""What columns and events are commonly called, in a few languages, and how like one of them a name is."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORDS: dict[str, frozenset[str]] = {
    "item": frozenset(
        "item product prod ad advert creative banner sku asin article art artikel produkt producto produit "
        "offer listing movie track song book news video goods stock ean gtin upc plu isbn material angebot "
        "articulo oferta pid iid".split()
    ),
    "user": frozenset(
        "user usr customer cust client visitor member household buyer shopper person consumer subscriber reader "
        "viewer kunde kunden nutzer besucher usuario cliente utilisateur acheteur cookie device uid".split()
    ),
    "time": frozenset(
        "timestamp time ts date datetime day created ordered purchased occurred at when datum zeit zeitpunkt uhrzeit "
        "zeitstempel bestelldatum kaufdatum fecha hora heure unixtime epoch moment".split()
    ),
    "position": frozenset("position pos seq sequence step nth".split()),
    "event": frozenset(
        "event action behavior behaviour activity interaction ereignis aktion vorgang evento evenement type kind "
        "typ tipo click clicked feedback".split()
    ),
    "value": frozenset(
        "value revenue sales amount total price turnover gmv spend paid payment sum net gross betrag summe umsatz "
        "preis erloes importe precio prix montant valor bid ecpm".split()
    ),
    "request": frozenset("request impression auction query exposure serve opportunity".split()),
    "account": frozenset(
        "account advertiser seller vendor merchant manufacturer supplier shop publisher partner company hersteller "
        "lieferant anbieter haendler vendedor proveedor fabricant".split()
    ),
    "title": frozenset("title name headline titel bezeichnung produktname titulo nombre titre nom label".split()),
    "text": frozenset(
        "description desc text body summary beschreibung details category categories kategorie categoria brand marke "
        "marca department type product colour color farbe size genre genres tags keywords style material".split()
    ),
    "opaque": frozenset("url uri link href image img picture photo bild path file hash md5 uuid email phone".split()),
    "outcome": frozenset(
        "sold sales purchases orders clicks views rating ratings reviews popularity rank ctr cvr conversions".split()
    ),
}
"""Role -> words that names of its columns are made of."""

WEAK: dict[str, frozenset[str]] = {"user": frozenset("session visit".split())}
"""Role -> words of names that will do where there is no better one."""

FILLERS = frozenset("id ids nr no num number nummer key code ref the of in my is".split())
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss"})  # type: ignore[arg-type]
ENDINGS = ("ids", "id", "nummer", "number", "code", "key", "nr", "no")

EVENTS: dict[str, frozenset[str]] = {
    "impression": frozenset(
        "impression impressions imp show shown exposure exposed display displayed view views viewed pv pageview page "
        "detail viewitem itemview productview served ansicht angesehen vista vue see seen".split()
    ),
    "click": frozenset(
        "click clicks clicked clk tap cart carts addtocart atc basket addtobasket fav favorite favourite wishlist "
        "like add open watch play play_start klick warenkorb carrito panier visit begincheckout checkoutstart".split()
    ),
    "conversion": frozenset(
        "conversion conversions converted conv purchase purchases purchased buy bought order orders ordered "
        "transaction sale sold checkout payment paid pay install subscribe signup kauf gekauft bestellung compra "
        "achat".split()
    ),
}
"""Our kind of event -> words for it."""


def words_of(name: str) -> list[str]:
    """The words of a column's name: `customerID`, `customer-id` and `customer_id:token` are all customer, id."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.split(":")[0])
    folded = spaced.lower().translate(UMLAUTS)
    return [word for word in re.split(r"[^a-z0-9]+", folded) if word]


def likeness(name: str, role: str) -> float:
    """How like the names of a role a column's name is, in [0, 1]: 1 if every word of it is one of the role's."""
    known, weak = WORDS[role], WEAK.get(role, frozenset())
    telling = [word for word in words_of(name) if word not in FILLERS] or words_of(name)
    hits = [1.0 if _stem(word, known) in known else 0.4 * (_stem(word, weak) in weak) for word in telling]
    return sum(hits) / len(hits) if hits else 0.0


def is_id_name(name: str) -> bool:
    """Whether a name says that its column holds ids."""
    words = words_of(name)
    ended = bool(words) and (words[-1] in ENDINGS or any(_stem(words[-1], WORDS[role]) != words[-1] for role in WORDS))
    return ended or likeness(name, "user") == 1 or likeness(name, "item") == 1


def _stem(word: str, known: frozenset[str]) -> str:
    """The word without an ending such as `id`, where that makes it a known one."""
    for ending in ENDINGS:
        if word not in known and word.endswith(ending) and word[: -len(ending)] in known:
            return word[: -len(ending)]
    return word


def event_kind(name: str) -> str | None:
    """Our name of a log's kind of event; None where it says nothing of the three: a search, a return."""
    words = words_of(name)
    if any(
        word in ("remove", "removed", "refund", "return", "returned", "cancel", "cancelled", "search")
        for word in words
    ):
        return None
    joined = "".join(words)
    for candidates in ([joined], words):
        # The furthest first: an `order_view` is told by its first pass only where the joined word is known.
        found = [kind for kind in ("conversion", "click", "impression") if any(w in EVENTS[kind] for w in candidates)]
        if found:
            return found[0]
    return None


def best(names: Iterable[str], role: str, least: float = 0.5) -> str | None:
    """The name most like a role, the first of equals; None if none is `least` like it."""
    scored = [(likeness(name, role), -place, name) for place, name in enumerate(names)]
    score, _, name = max(scored, default=(0.0, 0, ""))
    return name if score >= least else None
