"""The hub artifact: one folder with model, tokenizer, serving defaults, remote code, card and report."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from gr4ad import GR4ADForRecommendation, UASIDTokenizer, modeling_gr4ad
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.tokenization.ad_encoding import ENCODER_FOLDER, FILES, FOLDERS, copy_encoding

# What `custom_generate=REPOSITORY` of transformers loads: file in the artifact -> file of the model's package.
CUSTOM_GENERATE = {
    "generate.py": "custom_generate_gr4ad.py",
    "beam_selection_gr4ad.py": "beam_selection_gr4ad.py",
    "trie_gr4ad.py": "trie_gr4ad.py",
    "trie_restriction_gr4ad.py": "trie_restriction_gr4ad.py",
}
AUTO_MAP = {
    "AutoConfig": "configuration_gr4ad.GR4ADConfig",
    "AutoModel": "modeling_gr4ad.GR4ADModel",
    "AutoModelForSeq2SeqLM": "modeling_gr4ad.GR4ADForRecommendation",
}


def save_artifact(
    model_dir: Path, tokenizer_dir: Path, weights: RankingWeights, out_dir: Path, *, encoder_dir: Path | None = None
) -> None:
    """Writes the artifact's files into `out_dir`, beside whatever else is there; each file appears whole or not at
    all.

    Args:
        model_dir, tokenizer_dir: Folders of `save_pretrained`; the latter with what embeds new ads.
        weights: How `Recommender` ranks by default.
        encoder_dir: The tuned ad encoder, if there is one: becomes `encoder/`. An encoder that the tokenizer names as
            a folder does so by itself.
    """
    staging = out_dir / ".artifact"
    shutil.rmtree(staging, ignore_errors=True)
    model = GR4ADForRecommendation.from_pretrained(model_dir)
    model.config.auto_map = dict(AUTO_MAP)  # saving a head writes its own entry only
    model.save_pretrained(staging)
    UASIDTokenizer.from_pretrained(tokenizer_dir).save_pretrained(staging)
    weights.save_pretrained(str(staging))
    complete_auto_map(staging / "config.json")
    copy_encoding(tokenizer_dir, staging)
    for name in FILES:  # a tokenizer built by hand may have none of them
        (out_dir / name).unlink(missing_ok=True)
    (staging / "custom_generate").mkdir()
    for name, source in CUSTOM_GENERATE.items():
        shutil.copyfile(Path(modeling_gr4ad.__file__).with_name(source), staging / "custom_generate" / name)
    # A folder is not replaced by renaming, and an earlier recipe's encoder would not fit these codebooks.
    for folder in (*FOLDERS, "custom_generate"):
        shutil.rmtree(out_dir / folder, ignore_errors=True)
    if encoder_dir is not None and not (staging / ENCODER_FOLDER).is_dir():
        shutil.copytree(encoder_dir, staging / ENCODER_FOLDER)
    for path in sorted(staging.iterdir()):
        os.replace(path, out_dir / path.name)
    staging.rmdir()


def complete_auto_map(path: Path) -> None:
    """Puts every Auto class into the saved config, whichever class was saved."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["auto_map"] = dict(AUTO_MAP)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def beam_tree(folder: Path, history: list[str], *, top_k: int = 10, shown: int = 12) -> dict:
    """The beams of one request, level by level, for a picture.

    Returns:
        `history` (item and title), `levels` (T lists of the `shown` best prefixes: `sid`, `score`, `parent` = place in
        the level before) and `recommendations` (as the server answers them).
    """
    from gr4ad.serving import Recommender

    recommender = Recommender.from_pretrained(folder)
    tokenizer, model = recommender.tokenizer, recommender.model
    batch = tokenizer.encode_histories(
        [history],
        max_items=model.config.max_context_items,
        return_tensors="pt",
    )
    levels: list[list[dict]] = []
    context = model.model.encode(**batch)
    trunk = model.model.trunk(context)
    # Prefix log-probabilities of the final beams' ancestors: each prefix is scored by the same teacher-forced pass.
    found = model.beam_search(**batch, beam_widths=recommender.beam_widths, trie=recommender.trie)
    sids = found.sequences[:, : min(found.sequences.shape[1], 200)]
    sids = sids[:, (sids[0] > 0).all(-1)]
    states = model.model.autoregress(trunk, model.shift_right(sids), context)
    own = model.read_history_sids(context, trunk, recommender.trie)
    scores = model.prefix_log_probs(states, sids, recommender.trie, own)[0].T
    places: dict[tuple[int, ...], int] = {}
    for level in range(tokenizer.num_levels):
        prefixes: dict[tuple[int, ...], float] = {}
        for sid, score in zip(sids[0, :, : level + 1].tolist(), scores[level].tolist(), strict=True):
            prefixes.setdefault(tuple(sid), score)
        if level:
            prefixes = {prefix: score for prefix, score in prefixes.items() if prefix[:-1] in places}
        best = sorted(prefixes, key=lambda prefix: -prefixes[prefix])[:shown]
        levels.append(
            [
                {
                    "sid": "".join(tokenizer.convert_ids_to_tokens(list(prefix))),
                    "score": prefixes[prefix],
                    "parent": places[prefix[:-1]] if level else None,
                }
                for prefix in best
            ]
        )
        places = {prefix: place for place, prefix in enumerate(best)}
    titles = tokenizer.index.columns.get("title", [""] * len(tokenizer.index))
    answer = recommender.recommend([history], top_k=min(top_k, recommender.beam_widths[-1]))[0]
    return {
        "history": [{"item_id": item, "title": titles[tokenizer.index.rows[item]] or ""} for item in history[-8:]],
        "levels": levels,
        "recommendations": [
            {
                "item_id": r.item_id,
                "title": r.attributes.get("title") or "",
                "score": r.score,
                "value": r.value,
                "sid": r.sid,
            }
            for r in answer
        ],
    }
