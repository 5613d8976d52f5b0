"""The stack that generative models are held against in advertising: two-tower retrieval, then a value ranker.

Both are built of embedding tables of the ads' and users' fields and trained on the log that the other models read.

- **Retrieval**: tower of the user (features, mean and recency-weighted mean of the ads of the history, last ad) and
  tower of the ad (the sum of its fields' vectors), trained on the next click of every prefix by in-batch softmax with
  logQ correction (Yi et al., RecSys 2019). Its epoch is chosen on validation by recall.
- **Ranker**: DLRM (arXiv 1906.00091) trained on exposures: clicks, with a bias of the place, and the value.
- **Served**: the retrieved ads and those of the history, ordered by
  `w log p(ad | user) + (1 - w) log P(click) + v log E[value]`; w and v are chosen on validation.

Shapes: B users, S history ads, N ads, F fields of an ad, U fields of a user, d width.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from gr4ad.data import PreparedData
from gr4ad.tokenization.user_history import HISTORY_COLUMNS
from gr4ad.trainers.evaluation import SequenceTable, evaluate_rankings
from gr4ad.trainers.reward.exposure_lists import examination_of

logger = logging.getLogger("dlrm")

NOT_FEATURES = ("user_id", *HISTORY_COLUMNS, "target_items", "target_values")
TEXT_COLUMNS = ("title", "description")
MOST_SEEN = 3


@dataclass(frozen=True)
class DLRMSettings:
    """width: d of every table; epochs of retrieval, of which validation chooses one, and of the ranker;
    candidates: ads retrieved; retrieval_weights, value_weights: the w and v that validation chooses from."""

    width: int = 32
    history: int = 30
    retrieval_epochs: int = 8
    ranker_epochs: int = 2
    batch_size: int = 512
    learning_rate: float = 2e-3
    candidates: int = 100
    retrieval_weights: tuple[float, ...] = (0.0, 0.33, 0.67)
    value_weights: tuple[float, ...] = (0.25, 0.5, 1.0)


class Fields(nn.Module):
    """One table a categorical field: codes (..., fields), 0 = missing -> vectors (..., fields, d)."""

    def __init__(self, sizes: list[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        nn.init.normal_(self.table.weight, std=0.05)
        self.register_buffer("offsets", torch.tensor(np.cumsum([0, *sizes[:-1]]), dtype=torch.int64))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.table(codes + self.offsets)


class Reader(nn.Module):
    def __init__(self, ads: torch.Tensor, ad_sizes: list[int], user_sizes: list[int], width: int) -> None:
        super().__init__()
        self.register_buffer("ads", ads)  # codes (N, F)
        self.ad_fields, self.user_fields = Fields(ad_sizes, width), Fields(user_sizes or [1], width)

    def history(self, rows: torch.Tensor) -> torch.Tensor:
        """Ad rows (B, S), oldest first, -1 = padding on the left -> mean, recent mean, last: (B, 3, d)."""
        vectors = self.ad_fields(self.ads[rows.clamp(min=0)]).sum(2)
        present = (rows >= 0).float()
        recent = present * 0.7 ** torch.arange(rows.shape[1] - 1, -1, -1.0)
        means = [(vectors * w.unsqueeze(2)).sum(1) / w.sum(1, keepdim=True) for w in (present, recent)]
        return torch.stack([*means, vectors[:, -1]], dim=1)


class TwoTower(nn.Module):
    """Log-likelihood scores of all ads for users, before their normalizer."""

    def __init__(self, reader: Reader, user_fields: int, width: int) -> None:
        super().__init__()
        self.reader = reader
        self.user_tower = nn.Sequential(nn.Linear((user_fields + 3) * width, 128), nn.ReLU(), nn.Linear(128, width))
        self.ad_tower = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, width))
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def users(self, features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        parts = torch.cat([self.reader.user_fields(features), self.reader.history(rows)], dim=1)
        return F.normalize(self.user_tower(parts.flatten(1)), dim=-1) * self.log_scale.exp()

    def all_ads(self, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        return F.normalize(self.ad_tower(self.reader.ad_fields(self.reader.ads[rows]).sum(1)), dim=-1)


class Ranker(nn.Module):
    """Logit of a click at the first place, and log of the value over its mean, (B, n) each."""

    def __init__(self, reader: Reader, user_fields: int, ad_fields: int, width: int, places: int) -> None:
        super().__init__()
        self.reader = reader
        self.seen = nn.Embedding(MOST_SEEN + 1, width)
        count = user_fields + 3 + ad_fields + 1
        self.pairs = torch.triu_indices(count, count, 1)
        self.mlp = nn.Sequential(
            nn.Linear(self.pairs.shape[1] + count * width, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
            nn.Linear(64, 2),
        )  # fmt: skip
        self.places = nn.Parameter(torch.zeros(places))

    def forward(self, features: torch.Tensor, rows: torch.Tensor, shown: torch.Tensor) -> tuple[torch.Tensor, ...]:
        user = torch.cat([self.reader.user_fields(features), self.reader.history(rows)], dim=1)
        seen = (shown.unsqueeze(2) == rows.unsqueeze(1)).sum(2).clamp(max=MOST_SEEN)
        ad = torch.cat([self.reader.ad_fields(self.reader.ads[shown]), self.seen(seen).unsqueeze(2)], dim=2)
        parts = torch.cat([user.unsqueeze(1).expand(-1, shown.shape[1], -1, -1), ad], dim=2)
        products = (parts @ parts.transpose(2, 3))[:, :, self.pairs[0], self.pairs[1]]
        click, value = self.mlp(torch.cat([products, parts.flatten(2)], dim=2)).unbind(-1)
        return click, value.clamp(max=20)


class DLRM:
    """Fitted retrieval and ranker: `rank(split, places)` -> catalog rows int64 (users, places), best first."""

    def __init__(self, data: PreparedData, settings: DLRMSettings, metric: str, tuning: Dataset, seed: int) -> None:
        torch.manual_seed(seed)
        self.settings, self.metric, self.rng = settings, metric, np.random.default_rng(seed)
        self.ids = list(data.catalog["item_id"])
        self.rows = {item: row for row, item in enumerate(self.ids)}
        codes, sizes = ad_codes(data.catalog)
        self.features = [name for name in data.train.column_names if name not in NOT_FEATURES]
        values = {name: sorted({value for value in data.train[name] if value is not None}) for name in self.features}
        self.categories = {name: {value: n for n, value in enumerate(part, 1)} for name, part in values.items()}
        user_sizes = [len(known) + 1 for known in self.categories.values()]
        fields, width = max(1, len(user_sizes)), settings.width

        def reader() -> Reader:
            return Reader(torch.from_numpy(codes), sizes, user_sizes, width)

        self.retrieval = TwoTower(reader(), fields, width)
        self.fit_retrieval(data.train, tuning)
        self.ranker = self.fit_ranker(data, reader(), fields, len(sizes))
        self.weights = self.tune(tuning)
        logger.info("served by w, v = %s", self.weights)

    def contexts(self, split: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
        return self.user_codes(split), self.histories([self.item_rows(items) for items in split["items"]])

    def item_rows(self, items: list[str]) -> np.ndarray:
        return np.array([self.rows[item] for item in items], dtype=np.int64)

    def user_codes(self, split: Dataset) -> torch.Tensor:
        if not self.features:
            return torch.zeros((len(split), 1), dtype=torch.int64)
        columns = [[self.categories[name].get(value, 0) for value in split[name]] for name in self.features]
        return torch.tensor(columns).T.contiguous()

    def histories(self, parts: list[np.ndarray]) -> torch.Tensor:
        out = np.full((len(parts), self.settings.history), -1, dtype=np.int64)
        for line, part in zip(out, parts, strict=True):
            kept = part[-self.settings.history :]
            line[len(line) - len(kept) :] = kept
        return torch.from_numpy(out)

    def fit_retrieval(self, train: Dataset, tuning: Dataset) -> None:
        """In-batch softmax over next clicks; keeps the epoch with the best recall on validation."""
        features, users, prefixes, targets = self.user_codes(train), [], [], []
        for user, items in enumerate(train["items"]):
            rows = self.item_rows(items)
            for cut in range(1, len(rows)):
                users.append(user)
                prefixes.append(rows[max(0, cut - self.settings.history) : cut])
                targets.append(rows[cut])
        histories, owner, target = self.histories(prefixes), torch.tensor(users), torch.tensor(np.array(targets))
        log_q = torch.log(torch.bincount(target, minlength=len(self.ids)).clamp(min=1) / len(target))
        optimizer = torch.optim.AdamW(self.retrieval.parameters(), lr=self.settings.learning_rate)
        best, best_recall, state = 0, -1.0, None
        for epoch in range(1, self.settings.retrieval_epochs + 1):
            self.retrieval.train()
            for batch in self.batches(len(target)):
                user = self.retrieval.users(features[owner[batch]], histories[batch])
                ads = target[batch]
                logits = user @ self.retrieval.all_ads(ads).T - log_q[ads]
                same = (ads.unsqueeze(0) == ads.unsqueeze(1)) & ~torch.eye(len(ads), dtype=torch.bool)
                step(F.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(ads))), optimizer)
            found = torch.cat([best for *_, best in self.retrieved(tuning)])
            held_out = [set(self.item_rows(items).tolist()) for items in tuning["target_items"]]
            recall = float(np.mean([len(t & set(f)) / len(t) for t, f in zip(held_out, found.tolist(), strict=True)]))
            if recall > best_recall:
                best, best_recall = epoch, recall
                state = {name: value.clone() for name, value in self.retrieval.state_dict().items()}
        assert state is not None
        self.retrieval.load_state_dict(state)
        logger.info("retrieval: recall@%d %.3f in epoch %d", self.settings.candidates, best_recall, best)

    def fit_ranker(self, data: PreparedData, reader: Reader, user_fields: int, ad_fields: int) -> Ranker:
        assert data.impressions is not None
        owners = {user: row for row, user in enumerate(data.train["user_id"])}
        known = [row for row, (user, came) in enumerate(zip(data.impressions["user_id"], data.impressions["outcomes"],
                 strict=True)) if user in owners and came is not None]  # fmt: skip
        lists = data.impressions.select(known)
        shown_rows = [self.item_rows(items) for items in lists["candidates"]]
        histories = self.histories([self.item_rows(items[-self.settings.history :]) for items in lists["items"]])
        owner = torch.tensor([owners[user] for user in lists["user_id"]])
        features = self.user_codes(data.train)
        shown, mask = table(shown_rows, torch.int64), table([[True] * len(rows) for rows in shown_rows], torch.bool)
        clicked = table([[name != "impression" for name in came] for came in lists["outcomes"]], torch.float32)
        worth, width = table(lists["rewards"], torch.float32).numpy(), shown.shape[1]
        value = torch.from_numpy(worth / float(worth[mask.numpy()].mean()))
        ranker = Ranker(reader, user_fields, ad_fields, self.settings.width, width)
        with torch.no_grad():
            ranker.places.copy_(torch.from_numpy(examination_of(lists, shown_rows, width)).log())
        optimizer = torch.optim.AdamW(ranker.parameters(), lr=self.settings.learning_rate)
        ranker.train()
        for _ in range(self.settings.ranker_epochs):
            for batch in self.batches(len(lists)):
                click, log_value = ranker(features[owner[batch]], histories[batch], shown[batch])
                losses = F.binary_cross_entropy_with_logits(click + ranker.places, clicked[batch], reduction="none")
                losses = losses + log_value.exp() - value[batch] * log_value
                step(losses[mask[batch]].mean(), optimizer)
        return ranker.eval()

    def batches(self, count: int) -> Iterator[torch.Tensor]:
        order = torch.from_numpy(self.rng.permutation(count))
        yield from order.split(self.settings.batch_size)

    @torch.no_grad()
    def retrieved(self, split: Dataset) -> Iterator[tuple[torch.Tensor, ...]]:
        """Batches of users: their fields and histories, log-probabilities of all ads, and rows of the candidates."""
        ads = self.retrieval.eval().all_ads()
        for features, histories in zip(*(part.split(256) for part in self.contexts(split)), strict=True):
            log_probs = (self.retrieval.users(features, histories) @ ads.T).log_softmax(-1)
            best = log_probs.topk(min(self.settings.candidates, len(self.ids)), dim=-1).indices
            yield features, histories, log_probs, best

    @torch.no_grad()
    def scored(self, split: Dataset) -> tuple[np.ndarray, ...]:
        """Candidates (users, candidates + S), the retrieved and the history's; log p, log P(click), log E[value] of
        each; -inf where a history holds no more or names an ad again."""
        parts: list[list[np.ndarray]] = [[], [], [], []]
        for features, histories, log_probs, found in self.retrieved(split):
            rows = torch.cat([found, histories], dim=1)
            earlier = (rows.unsqueeze(2) == rows.unsqueeze(1)).tril(-1).any(2) | (rows < 0)
            rows = rows.clamp(min=0)
            click, value = self.ranker(features, histories, rows)
            likely = log_probs.gather(1, rows).masked_fill(earlier, -torch.inf)
            for part, piece in zip(parts, (rows, likely, F.logsigmoid(click), value), strict=True):
                part.append(piece.numpy())
        return tuple(np.concatenate(part) for part in parts)

    @staticmethod
    def ordered(scored: tuple[np.ndarray, ...], weights: tuple[float, float], places: int) -> np.ndarray:
        rows, likely, click, value = scored
        w, v = weights
        known = np.isfinite(likely)
        total = np.where(known, w * np.where(known, likely, 0.0) + (1 - w) * click + v * value, -np.inf)
        order = np.argsort(-total, axis=1, kind="stable")[:, :places]
        ranked = np.take_along_axis(rows, order, axis=1)
        return np.where(np.isfinite(np.take_along_axis(total, order, axis=1)), ranked, -1)

    def tune(self, tuning: Dataset) -> tuple[float, float]:
        scored = self.scored(tuning)
        targets = SequenceTable.from_dataset(tuning, self.ids).held_out
        tried = {}
        for weights in product(self.settings.retrieval_weights, self.settings.value_weights):
            rankings = self.ordered(scored, weights, 20)
            tried[weights] = evaluate_rankings(rankings, targets, catalog_size=len(self.ids))[self.metric]
        return max(tried, key=lambda weights: tried[weights])

    def rank(self, split: Dataset, places: int) -> np.ndarray:
        return self.ordered(self.scored(split), self.weights, places)


def ad_codes(catalog: Dataset) -> tuple[np.ndarray, list[int]]:
    """Codes (N, F) of the catalog's fields, 0 = missing, and their number of values; numbers are cut into deciles,
    texts and lists left out."""
    columns, sizes = [], []
    for name in catalog.column_names:
        column = catalog.data.column(name).combine_chunks()
        if name in TEXT_COLUMNS or pa.types.is_nested(column.type):
            continue
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            numbers = column.to_numpy(zero_copy_only=False).astype(np.float64)
            edges = np.unique(np.nanquantile(numbers, np.linspace(0, 1, 11)[1:-1]))
            codes = np.where(np.isnan(numbers), 0, np.searchsorted(edges, numbers, side="right") + 1)
        else:
            indices = column.dictionary_encode().indices.fill_null(-1)
            codes = indices.to_numpy(zero_copy_only=False).astype(np.int64) + 1
        columns.append(codes.astype(np.int64))
        sizes.append(int(codes.max()) + 1)
    return np.stack(columns, axis=1), sizes


def table(parts: Iterable[Sequence | np.ndarray], dtype: torch.dtype) -> torch.Tensor:
    """Rows of different lengths, zeros behind the shorter ones."""
    return pad_sequence([torch.as_tensor(part, dtype=dtype) for part in parts], batch_first=True)


def step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
