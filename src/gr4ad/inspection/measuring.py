"""All that is counted and checked of a layout."""

from __future__ import annotations

import numpy as np

from gr4ad.inspection.counting import count_catalog, count_history, count_lists, count_rows, count_values
from gr4ad.inspection.dangers import check_clock, check_ids, check_joins, check_leaks, check_own_names
from gr4ad.inspection.findings import Findings
from gr4ad.inspection.layout import Layout
from gr4ad.inspection.log_view import view_of
from gr4ad.inspection.splitting import split_of


def findings_of(layout: Layout) -> Findings:
    """Measures the sample of a layout. Changes its `event_names` as `view_of` does."""
    view = view_of(layout)
    split = split_of(layout, view)
    catalog, log = layout.files[layout.catalog], layout.files[layout.events]
    key = layout.key_column
    scale = log.rows / max(1, log.table.num_rows)
    lengths = view.lengths
    found = Findings(
        view=view,
        split=split,
        items=key.distinct if layout.keys or catalog.whole else max(key.distinct, catalog.rows),
        users=round(len(lengths) * scale) if log.of_users else len(lengths),
        events=round(len(view.history) * scale),
        scale=scale,
        mean_length=float(lengths.mean()) if len(lengths) else 0.0,
        long_length=int(np.quantile(lengths, 0.99)) if len(lengths) else 0,
    )
    for name in dict.fromkeys(filter(None, (layout.events, layout.catalog, layout.users))):
        found.stops += layout.files[name].odd
    count_rows(layout, found)
    count_history(layout, found)
    count_catalog(layout, found)
    count_values(layout, found)
    count_lists(layout, found)
    check_ids(layout, found)
    check_clock(layout, found)
    check_own_names(layout, found)
    check_joins(layout, found)
    check_leaks(layout, found)
    return found
