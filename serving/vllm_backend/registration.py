# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Entry point `vllm.general_plugins`: what vLLM asks before it builds an engine.

`register` runs in each of vLLM's processes, with or without a GR4AD model in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm.model_executor.models import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.transformers_utils.model_arch_config_convertor import (
    MODEL_ARCH_CONFIG_CONVERTORS,
    ModelArchConfigConvertorBase,
)

# For AutoConfig and AutoTokenizer, through which vLLM reads an artifact.
import gr4ad.modeling_gr4ad
import gr4ad.tokenization  # noqa: F401

from .options import VLLMOptions

if TYPE_CHECKING:
    from vllm.config import ModelConfig, VllmConfig

ARCHITECTURE = "GR4ADForRecommendation"
PACKAGE = "gr4ad.serving.vllm_backend"
CHUNKED_PREFILL_KEY = "gr4ad_chunked_prefill"
NO_KV_CACHE_BYTES = 1 << 20


class GR4ADArchConvertor(ModelArchConfigConvertorBase):
    """How vLLM reads a GR4AD configuration."""

    def __init__(self, hf_config: Any, hf_text_config: Any, *args: Any, **kwargs: Any):
        # To transformers the context processor is an encoder. To vLLM that would mean cross-attention layers of its
        # own, and a prompt for each half.
        hf_config.is_encoder_decoder = False
        super().__init__(hf_config, hf_text_config, *args, **kwargs)

    def derive_max_model_len_and_key(self) -> tuple[float, str | None]:
        return self.hf_config.num_levels * self.hf_config.max_context_items, "max_context_items"


class GR4ADConfigCheck(VerifyAndUpdateConfig):
    """Refuses at start what would not work, and fills in what GR4AD needs of vLLM."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        if model_config.quantization is not None:
            raise ValueError(
                f"`quantization` = {model_config.quantization!r} acts on vLLM's own layers, and GR4AD has none of "
                "them. Leave it out; `--dtype bfloat16` halves the weights."
            )
        # Its forward pass does nothing, so there is nothing to compile or capture.
        model_config.enforce_eager = True

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        parallel = vllm_config.parallel_config
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            size = getattr(parallel, name)
            if size > 1:
                raise ValueError(
                    f"`{name}` = {size}: vLLM calls the pooler of a model, in which GR4AD decodes, on one rank only, "
                    "and a model of this size fits on one device. Use `--data-parallel-size` for more devices."
                )
        if vllm_config.lora_config is not None:
            raise ValueError(
                "`enable_lora`: vLLM's LoRA acts on its own layers, and GR4AD has none of them. Merge the adapter "
                "into the model (`merge_and_unload`) and serve the result; weights can be swapped while serving."
            )
        options = VLLMOptions.from_additional_config(vllm_config.additional_config)
        scheduler = vllm_config.scheduler_config
        if scheduler.scheduler_cls is None:
            kind = "AsyncLevelAdaptiveScheduler" if scheduler.async_scheduling else "LevelAdaptiveScheduler"
            scheduler.scheduler_cls = f"{PACKAGE}.scheduler.{kind}"
        if not parallel.worker_extension_cls:
            parallel.worker_extension_cls = f"{PACKAGE}.worker_extension.GR4ADWorkerExtension"
        # The engine turns chunking off for models without a KV cache, since it takes them for encoders. Here a chunk
        # is only counted, so both settings work; the scheduler goes by this note.
        vllm_config.additional_config = {
            **options.to_additional_config(),
            **{key: value for key, value in vllm_config.additional_config.items() if key != "gr4ad"},
            CHUNKED_PREFILL_KEY: scheduler.enable_chunked_prefill,
        }
        if vllm_config.cache_config.kv_cache_memory_bytes is None:
            vllm_config.cache_config.kv_cache_memory_bytes = NO_KV_CACHE_BYTES  # none of it is used


def register() -> None:
    """Makes vLLM know GR4AD; may be called more than once."""
    ModelRegistry.register_model(ARCHITECTURE, f"{PACKAGE}.model:GR4ADForVLLM")
    MODELS_CONFIG_MAP[ARCHITECTURE] = GR4ADConfigCheck
    MODEL_ARCH_CONFIG_CONVERTORS["gr4ad"] = GR4ADArchConvertor
