"""The account of the data as lines."""

from gr4ad.report.accounting_rows import accounting_rows, accounting_warnings

FOUND = {
    "files": [
        {"role": "events", "file": "log.csv", "format": "csv", "delimiter": "semicolon", "rows": 1200, "kept": 1190,
         "dropped": {"unknown_item": 10}},
    ],
    "rows_in": 1200,
    "kept": 1100,
    "dropped": {"unknown_item": 10},
    "repeats": 50,
    "merged": 30,
    "refunds": {"policy": "net", "negative_values": 10, "rows": 10, "amount": 20.0, "netted": 15.0, "unmatched": 4.0,
                "held_back": 1.0},
    "users": 7,
    "items": 9,
    "event_names": {"view": {"as": "impression", "rows": 900}, "click": {"as": "click", "rows": 3},
                    "odd": {"as": None, "rows": 1}},
    "emptied_events": {},
    "blank_values": {"click": 3},
    "whole_float_ids": {"events": ["uid"]},
    "time_unit": {"ts": {"unit": "ms", "known_by": "magnitude", "first": "2023-11-14", "last": "2023-11-15"}},
    "ties": {"rows": 110, "share": 0.1},
    "repeated_targets": {"train": 0.0, "validation": 0.0, "test": 0.25},
    "joins": {"events_catalog": {"matched": 1190, "unmatched": 10, "items_without_events": 2},
              "events_users": {"matched": 5, "unmatched": 2, "users_without_events": 3}},
    "leakage": {"entries": 2000, "held_out_events": 14},
    "warnings": ["Only 7 users are tested: the figures mean nothing."],
}  # fmt: skip


def test_every_step_is_a_line():
    rows = {what: text.replace("\u202f", " ") for what, text in accounting_rows({"accounting": FOUND})}
    assert rows == {
        "Events": "log.csv (csv, delimiter semicolon): 1 200 rows, 10 dropped (unknown item)",
        "Rows of the log": "1 200 in, 10 dropped, 50 equal to another row, 30 clicks merged into their conversion, "
        "10 refunds settled; 1 100 kept",
        "Users and items": "7 users, 9 items",
        "Names of events": "view as impression (900)",
        "Without a value": "3 click rows (worth 0)",
        "Negative values": "10 rows, policy net: 20 returned, 15 taken off earlier conversions, 4 without one, 1 of a "
        "later part of the split",
        "Ids": "uid of the events: floating-point numbers taken as whole ones",
        "Times by ts": "milliseconds (known by magnitude), 2023-11-14 to 2023-11-15",
        "At one moment with another": "110 events (10.0%), ordered by a hash of the ids",
        "Repeat the item just before": "25.0% of test",
        "Log and catalog": "1 190 rows matched, 10 not; 2 items without events",
        "Log and users": "5 users matched, 2 not; 3 users without events",
        "Leakage check": "none of 14 held-out events among 2 000 entries of training rows",
    }
    assert accounting_warnings({"accounting": FOUND}) == FOUND["warnings"]


def test_data_of_an_earlier_version_have_no_account():
    assert accounting_rows({}) == [] and accounting_warnings({"users": 3}) == []
