"""The artifact that is trained on: read once, saved often."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.pipeline.artifact import complete_auto_map
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.ad_encoding import ENCODING_FILE, FILES, FOLDERS, copy_encoding

CODEBOOKS = "codebooks.safetensors"


@dataclass
class LiveArtifact:
    """Model, tokenizer and how servers rank; `fixed` is the folder of what never changes: codebooks, and what
    embeds new ads."""

    model: GR4ADForRecommendation
    tokenizer: UASIDTokenizer
    serving: RankingWeights
    fixed: Path

    @classmethod
    def load(cls, folder: str | Path, fixed: Path) -> LiveArtifact:
        """Reads an artifact, and copies into `fixed` what a later one needs of it, unless it is there. Raises
        ValueError if a file is missing or damaged, or the model cannot rank as it is to be served."""
        try:
            model = GR4ADForRecommendation.from_pretrained(folder)
            tokenizer = UASIDTokenizer.from_pretrained(folder)
            serving = RankingWeights.from_pretrained(str(folder))
        except OSError as error:
            message = str(error).splitlines()[0]
            raise ValueError(
                f"{folder}: not a GR4AD artifact ({message}). Give the `--out` folder of a finished `gr4ad run`."
            ) from error
        serving.check(model.config)
        for parameter in model.parameters():
            # What was read lies wherever its file put it; products of matrices differ in their last bits by that.
            parameter.data = parameter.data.clone()
        # The folder that was read may be replaced. Servers do not read item vectors: a training starts from them.
        tokenizer.item_vectors_file = None
        fixed.mkdir(parents=True, exist_ok=True)
        codebooks = Path(tokenizer.codebooks_file or "")
        if codebooks.is_file() and not (fixed / CODEBOOKS).is_file():
            shutil.copyfile(codebooks, fixed / f".{CODEBOOKS}")
            os.replace(fixed / f".{CODEBOOKS}", fixed / CODEBOOKS)
        keep_encoding(Path(folder), fixed)
        if (fixed / CODEBOOKS).is_file():
            tokenizer.codebooks_file = str(fixed / CODEBOOKS)
        return cls(model, tokenizer, serving, fixed)

    def save(self, folder: Path) -> None:
        """Writes all that `Recommender.from_pretrained` reads."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        self.serving.save_pretrained(str(folder))
        complete_auto_map(folder / "config.json")
        copy_encoding(self.fixed, folder, link=True)


def keep_encoding(folder: Path, fixed: Path) -> None:
    """Copies what embeds new ads out of an artifact, unless it is there; each file and folder appears whole, and the
    settings, which name the others, last."""
    staging = fixed / ".encoding"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir()
    copy_encoding(folder, staging)
    names = [*FOLDERS, *(name for name in FILES if name != ENCODING_FILE), ENCODING_FILE]
    for name in names:
        if (staging / name).exists() and not (fixed / name).exists():
            os.replace(staging / name, fixed / name)
    shutil.rmtree(staging)
