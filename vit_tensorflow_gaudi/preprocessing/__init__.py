"""From raw ImageNet to TFRecord shards: what preprocess_imagenet.py is made of."""
