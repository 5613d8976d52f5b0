"""`gr4ad data` says what it has read, and what a reader has to know."""

import pandas as pd

from gr4ad.cli import main

DAY = 86_400_000


def test_the_account_is_printed_and_warnings_come_last(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    pd.DataFrame({"sku": ["a", "b", "c"]}).to_csv(tmp_path / "catalog.csv", index=False)
    rows = [(user, item, 1_700_000_000_000 + DAY * place) for user in "uv" for place, item in enumerate("abc")]
    events = pd.DataFrame(rows, columns=["who", "sku", "at"])
    pd.concat([events, events[:1]]).to_csv(tmp_path / "events.csv", index=False)
    config = tmp_path / "data.yaml"
    config.write_text(
        f"root: {tmp_path}\ncatalog: catalog.csv\nevents: events.csv\ncatalog_columns: {{item_id: sku}}\n"
        "event_columns: {user_id: who, item_id: sku, timestamp: at}\ndrop: [unsorted_time]\n"
    )
    assert main(["data", "--config", str(config), "--out", str(tmp_path / "out")]) == 0
    text = capsys.readouterr().out.replace("\u202f", " ")
    for told in (
        "events.csv (csv, delimiter comma): 7 rows",
        "7 in, 1 equal to another row; 6 kept",
        "Times by at",
        "milliseconds (known by magnitude), 2023-11-14 22:13:20",
        "2 users, 3 items",
        "7 rows matched, 0 not",
        "none of 4 held-out events among",
    ):
        assert told in text, told
    assert text.rstrip().splitlines()[-1] == "warning: Only 2 users are tested: the figures mean nothing."


def test_features_of_users_as_a_flag(tmp_path, capsys):
    pd.DataFrame({"item_id": ["a", "b", "c"]}).to_csv(tmp_path / "catalog.csv", index=False)
    pd.DataFrame({"user_id": ["u"] * 3, "item_id": list("abc"), "position": [0, 1, 2]}).to_csv(tmp_path / "events.csv")
    pd.DataFrame({"user_id": ["u"], "age": [30]}).to_csv(tmp_path / "users.csv", index=False)
    arguments = ["data", "--root", str(tmp_path), "--catalog", "catalog.csv", "--events", "events.csv", "--users",
                 "users.csv", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(arguments) == 2
    assert "`user_features` should say which of its columns the model may learn" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--user_features", '{"age": {"bins": 2}}']) == 0
    assert "Log and users" in capsys.readouterr().out
