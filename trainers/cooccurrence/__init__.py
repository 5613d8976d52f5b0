from .item_sequences import ItemSequenceCollator, ItemSequenceConfig, main_components, train_item_vectors

__all__ = ["ItemSequenceCollator", "ItemSequenceConfig", "main_components", "train_item_vectors"]
