from .item_sequences import ItemSequenceCollator, ItemSequenceConfig, train_item_vectors

__all__ = ["ItemSequenceCollator", "ItemSequenceConfig", "train_item_vectors"]
