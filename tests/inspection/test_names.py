import pytest

from gr4ad.inspection.names import best, event_kind, is_id_name, likeness, words_of


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("customerID", ["customer", "id"]),
        ("user_id:token", ["user", "id"]),
        ("Käufer-Nr.", ["kaeufer", "nr"]),
        ("eventTime", ["event", "time"]),
        ("", []),
    ],
)
def test_names_are_cut_into_words(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("visitorid", "user"),
        ("Kundennummer", "user"),
        ("CustomerID", "user"),
        ("asin", "item"),
        ("StockCode", "item"),
        ("itemId", "item"),
        ("Artikelnummer", "item"),
        ("timestamp", "time"),
        ("Bestelldatum", "time"),
        ("event_type", "event"),
        ("sales_value", "value"),
        ("manufacturer_id", "account"),
        ("Bezeichnung", "title"),
    ],
)
def test_common_names_are_known(name, role):
    assert likeness(name, role) == 1


def test_a_session_will_do_for_a_user_where_there_is_no_better_name():
    assert 0 < likeness("session_id", "user") < likeness("visitor_id", "user")
    assert best(["session_id", "visitor_id"], "user") == "visitor_id"
    assert best(["quantity", "store"], "user") is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("view", "impression"),
        ("page_view", "impression"),
        ("pv", "impression"),
        ("Add to cart", "click"),
        ("addtocart", "click"),
        ("fav", "click"),
        ("transaction", "conversion"),
        ("buy", "conversion"),
        ("Kauf", "conversion"),
        ("remove_from_cart", None),
        ("search", None),
        ("refund", None),
        ("xyz", None),
    ],
)
def test_events_are_known(name, kind):
    assert event_kind(name) == kind


def test_names_of_ids():
    assert all(map(is_id_name, ("basket_id", "InvoiceNo", "userid", "asin")))
    assert not any(map(is_id_name, ("timestamp", "event_time", "price", "t")))
