"""`gr4ad add`: new ads, by what a file says of them, into an artifact or a published model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from gr4ad.commands.arguments import CommandParser
from gr4ad.data.checking import DataError

SHOWN = 20  # reasons, and new ads, on the terminal


def add(arguments: list[str]) -> None:
    parser = CommandParser(
        prog="gr4ad add",
        description="Adds ads by their attributes: embeds them as the artifact's own, gives them semantic IDs, and "
        "serves them without training. Ads that are served become what the file says.",
    )
    parser.add_argument("--model", required=True, help="folder of `gr4ad run`, or root of a published model")
    parser.add_argument("--ads", required=True, help="file of ads, in any format of a catalog, with its columns")
    parser.add_argument(
        "--columns",
        default="{}",
        help='our names to the file\'s, as `catalog_columns` of the recipe; JSON, e.g. \'{"item_id": "sku"}\'',
    )
    parser.add_argument("--rejected", help="file to write: the ads that were left out, with the reason (.jsonl)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        columns = json.loads(options.columns)
    except json.JSONDecodeError as error:
        raise ValueError(f"`--columns` must be JSON ({error}). Received: {options.columns!r:.100}.") from error
    if not isinstance(columns, dict) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise ValueError(f"`--columns` must map names to names. Received: {options.columns!r:.100}.")

    from rich.console import Console

    from gr4ad.online.adding import add_ads, read_ads
    from gr4ad.serving import PublishedModel
    from gr4ad.tokenization.ad_encoder import AdEncoder

    published = PublishedModel.exists_at(options.model)
    folder = PublishedModel(options.model).current()[1] if published else Path(options.model)
    try:
        records, left_out = read_ads(options.ads, columns, AdEncoder.load(folder))
    except DataError as error:
        if "column map" not in str(error):
            raise
        raise DataError(f'{error} Here that is `--columns \'{{"item_id": "YOUR NAME"}}\'`.') from error
    added = add_ads(options.model, records)
    if options.rejected and added.refused:
        lines = [
            json.dumps({"reason": reason, "row": place, "record": records[place]}, default=str, ensure_ascii=False)
            for place, _, reason in added.refused
        ]
        temporary = Path(f"{options.rejected}.tmp")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, options.rejected)
    if options.json:
        refused = [{"row": place, "item_id": item, "reason": reason} for place, item, reason in added.refused]
        content = {
            "rows": len(records), "added": added.sids, "unchanged": added.unchanged, "refused": refused,
            "columns_left_out": left_out, "index_changes": added.changes,
        }  # fmt: skip
        json.dump(content, sys.stdout, indent=1, default=str)
        sys.stdout.write("\n")
    else:
        show = Console(highlight=False, soft_wrap=True, markup=False).print
        if left_out:
            show(f"columns left out, which the catalog of the artifact does not have: {', '.join(left_out)}")
        for place, item, reason in added.refused[:SHOWN]:
            show(f"row {place} ({item!r}) is left out: {reason}")
        for item, sid in list(added.sids.items())[:SHOWN]:
            show(f"{item}  {sid}")
        if len(added.sids) > SHOWN:
            show(f"... and {len(added.sids) - SHOWN} more")
        place = f"index change {added.changes} of {options.model}" if published else options.model
        show(
            f"rows: {len(records)}; ads added or changed: {len(added.sids) - added.unchanged}, as they were: "
            f"{added.unchanged}, left out: {len(added.refused)}; {place}"
        )
    if not added.sids:
        raise ValueError(f"{options.ads}: none of its {len(records)} rows is an ad. The first: {added.refused[0][2]}")
