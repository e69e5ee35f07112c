"""Networks that turn a feature pyramid into logits, all behind `segtrain.models.base.SegmentationModel`."""
