"""What a simulated market's own system logs, as an online trainer is fed with it."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from gr4ad.market import AdMarket

DAY = 86_400
MAX_ITEMS = 30


@dataclass
class Log:
    """What the market's own system logged: clicks and lists in order of time."""

    clicks: list[tuple[int, str, str, float]]  # time, user, item, value
    lists: list[tuple[int, str, list[str], list[float]]]  # time, user, candidates, values
    entry: dict[str, int]
    of_user: dict[str, list[tuple[int, str, float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, market: AdMarket) -> "Log":
        events = market.simulate().sort_values("timestamp", kind="stable")
        click = events[events["event"] == "click"]
        columns = ("timestamp", "user_id", "item_id", "value")
        clicks = list(zip(*(click[name].tolist() for name in columns), strict=True))
        shown = events[events["event"] == "impression"].groupby("request_id", sort=False)
        lists = [
            (int(part["timestamp"].iloc[0]), part["user_id"].iloc[0], part["item_id"].tolist(), part["value"].tolist())
            for _, part in shown
        ]
        log = cls(clicks, lists, market.entry_times().to_dict())
        for moment, user, item, value in clicks:
            log.of_user.setdefault(user, []).append((moment, item, value))
        return log

    def history(self, user: str, until: int, since: int = 0) -> tuple[list[str], list[float]]:
        """Items and values of the last clicks before a time."""
        past = [(item, value) for moment, item, value in self.of_user.get(user, ()) if since <= moment < until]
        return [item for item, _ in past[-MAX_ITEMS:]], [value for _, value in past[-MAX_ITEMS:]]


def content_embeddings(catalog: pd.DataFrame) -> np.ndarray:
    """float32 (ads, d): main components of the TF-IDF of title, category and brand, which need no encoder."""
    texts = (catalog["title"] + " " + catalog["category"] + " " + catalog["brand"]).tolist()
    tfidf = TfidfVectorizer(sublinear_tf=True).fit_transform(texts)
    return normalize(TruncatedSVD(32, random_state=0).fit_transform(tfidf)).astype(np.float32)


def new_ads(log: Log, ids: list[str], embeddings: np.ndarray, now: int) -> list[dict]:
    """Catalog records of the ads that entered on the day before a time."""
    rows = [row for row, item in enumerate(ids) if now - DAY <= log.entry[item] < now]
    return [{"item_id": ids[row], "embedding": embeddings[row].tolist(), "business_key": ids[row]} for row in rows]
