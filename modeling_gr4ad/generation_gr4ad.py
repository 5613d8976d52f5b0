# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`generate()` with the interface of transformers, on top of the beam search.

Shapes: B batch, T SID levels.
"""

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateBeamEncoderDecoderOutput, GenerationMixin
from transformers.utils import ModelOutput

from .beam_selection_gr4ad import width_table
from .configuration_gr4ad import HISTORY_INPUTS, SIDTokenizer
from .item_ranking_gr4ad import GR4ADItemRankingMixin
from .trie_gr4ad import SIDTrie
from .trie_restriction_gr4ad import TrieRestriction


class GR4ADGenerationMixin(GR4ADItemRankingMixin, GenerationMixin):
    """Everything [`GR4ADForRecommendation`] produces from histories."""

    def build_trie(self, tokenizer: SIDTokenizer, *, removed: bool = False) -> SIDTrie:
        """The trie of the active items of a [`UASIDTokenizer`], on the model's device: built once for many requests.
        It does not follow later changes of the item table.

        Args:
            removed: With the items that were removed from the table, which a log may hold: for training.

        Raises:
            ValueError: If the tokenizer is not this model's, or has no active item.
        """
        self.config.check_tokenizer(tokenizer)
        return SIDTrie.from_index(tokenizer.index, self.device, removed=removed)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        trie: SIDTrie | None = None,
        tokenizer: SIDTokenizer | None = None,
        restriction: TrieRestriction | None = None,
        custom_generate: str | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | ModelOutput:
        """Beam search with the interface of transformers: `beam_search`, and the best of its SIDs.

        ```python
        >>> sids = model.generate(**batch, tokenizer=tokenizer, num_beams=128, num_return_sequences=10)
        >>> tokenizer.decode_items(sids)
        ```

        Args:
            inputs, or `input_ids`, and `attention_mask`, ...: The histories, as in [`GR4ADModel.forward`].
            generation_config: Where `beam_widths` (T widths), `num_beams` (the same width at each level),
                `num_return_sequences`, `value_weight` and `return_dict_in_generate` are looked up unless given as
                arguments; default the model's own.
            trie ([`SIDTrie`]): The valid SIDs. tokenizer ([`UASIDTokenizer`]): Builds the trie of its active items,
                at each call: for repeated calls pass `trie=model.build_trie(tokenizer)`.
            restriction ([`TrieRestriction`]): What each history may not be given; of `trie`, which it needs.
            custom_generate (`str`): A folder or hub repository with another `custom_generate/generate.py` to run
                instead; needs `trust_remote_code=True`.

        Returns:
            (B * num_return_sequences, 1 + T): the decoder start token and an SID, best first for each history; rows of
            padding where a history has fewer. With `return_dict_in_generate`, also `sequences_scores`, (B *
            num_return_sequences): the scores of `beam_search`, -inf for padding.

        Raises:
            ValueError: If neither trie nor tokenizer is given (nothing is generated without knowing what is valid), an
                argument means nothing to this search, or a restriction is of another trie or batch.
        """
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        if custom_generate is not None:
            if not isinstance(custom_generate, str):
                raise ValueError("`custom_generate` must name a folder or a hub repository: call a function directly.")
            given = {"trie": trie, "tokenizer": tokenizer, "restriction": restriction}
            own = {name: value for name, value in given.items() if value is not None}
            kwargs |= {**own, "custom_generate": custom_generate}
            return super().generate(inputs, generation_config, **kwargs)  # type: ignore[misc]
        settings = self.generation_config if generation_config is None else generation_config

        def setting(name: str, default: Any) -> Any:
            value = kwargs.pop(name, getattr(settings, name, None))
            return default if value is None else value

        levels = self.config.num_levels
        if "num_beams" in kwargs:
            widths = [kwargs.pop("num_beams")] * levels
        else:
            widths = setting("beam_widths", None) or [setting("num_beams", 1)] * levels
        count, as_dict = setting("num_return_sequences", 1), setting("return_dict_in_generate", False)
        value_weight = setting("value_weight", 0.0)
        history = {name: kwargs.pop(name) for name in HISTORY_INPUTS if name in kwargs}
        inputs = kwargs.pop("input_ids", inputs)
        if setting("do_sample", False) or kwargs:
            raise ValueError(
                f"`generate` of GR4AD is a beam search and takes no {', '.join(sorted(kwargs)) or 'sampling'}. It "
                "knows `beam_widths` or `num_beams`, `num_return_sequences`, `value_weight`, `restriction`, "
                "`return_dict_in_generate` and the inputs of the model."
            )
        if inputs is None:
            raise ValueError("`generate` reads histories: pass `input_ids` (B, S * T), as the tokenizer makes them.")
        if trie is None:
            if restriction is not None:
                raise ValueError("`restriction` is of one trie: pass that as `trie=`, in place of `tokenizer=`.")
            if tokenizer is None:
                raise ValueError(
                    "`generate` needs to know which semantic IDs are valid: pass `tokenizer=` (with the catalog's "
                    "item table), or `trie=`."
                )
            trie = self.build_trie(tokenizer)
        least = min(line[-1] for line in width_table(widths, inputs.shape[0], levels))
        if not 1 <= count <= least:
            raise ValueError(f"`num_return_sequences` must be in 1..{least} (beams). Received: {count}.")
        beams = self.beam_search(
            inputs,
            beam_widths=widths,
            trie=trie,
            value_weight=value_weight,
            return_values=bool(value_weight),
            restriction=restriction,
            **history,
        )
        start = inputs.new_full((inputs.shape[0] * count, 1), self.config.decoder_start_token_id)
        sequences = torch.cat([start, beams.sequences[:, :count].flatten(0, 1)], dim=1)
        if not as_dict:
            return sequences
        scores = beams.scores[:, :count].flatten()
        return GenerateBeamEncoderDecoderOutput(sequences=sequences, sequences_scores=scores)  # type: ignore[arg-type]


__all__ = ["GR4ADGenerationMixin"]
