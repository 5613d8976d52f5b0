# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the arguments of all trainers of this package have other than transformers'."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class RowArguments:
    """Columns are named by the data format, not by `forward`."""

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the columns."}
    )

    def check_row_arguments(self) -> None:
        """Raises ValueError if columns were to be removed."""
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )


__all__ = ["RowArguments"]
