"""Which configuration class each section of a recipe has the fields of. Importing it is light."""

SETTINGS = "gr4ad.pipeline.settings"
SECTIONS = {
    "market": "gr4ad.market.config.MarketConfig",
    "data": "gr4ad.data.config.DataConfig",
    "embed": f"{SETTINGS}.EmbedConfig",
    "tune": "gr4ad.trainers.cooccurrence.encoder_tuning.EncoderTuningConfig",
    "cooccurrence": "gr4ad.trainers.cooccurrence.item_sequences.ItemSequenceConfig",
    "tokenize": f"{SETTINGS}.TokenizeConfig",
    "model": f"{SETTINGS}.ModelSettings",
    "train": "gr4ad.trainers.vsl.vsl_config.VSLConfig",
    "neighbours": f"{SETTINGS}.NeighbourConfig",
    "lists": f"{SETTINGS}.ListConfig",
    "explore": f"{SETTINGS}.ExploreConfig",
    "reward": "gr4ad.trainers.reward.reward_config.RewardConfig",
    "align": "gr4ad.trainers.rspo.rspo_config.RSPOConfig",
    "evaluate": f"{SETTINGS}.EvaluateConfig",
}
"""Section of a recipe -> the configuration class whose fields it has."""

RANKING = ("gr4ad.trainers.evaluation.ranking_fields.RankingEvaluationConfig", "check_ranking")
NEED_TORCH: dict[str, tuple[tuple[str, str], ...]] = {
    "tune": (),
    "cooccurrence": (),
    "train": (("gr4ad.trainers.vsl.vsl_fields.VSLFields", "check_vsl_fields"), RANKING),
    "reward": (("gr4ad.trainers.reward.reward_fields.RewardFields", "check_reward_fields"),),
    "align": (("gr4ad.trainers.rspo.preference_fields.RSPOFields", "check_rspo_fields"), RANKING),
}
"""Sections whose class needs torch: they stay plain values until their stage builds it; with the parts of the class
that check ranges without torch, and how."""
