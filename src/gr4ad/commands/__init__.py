"""The commands of `gr4ad`, by what they work on: the whole chain, one stage, a finished artifact."""
