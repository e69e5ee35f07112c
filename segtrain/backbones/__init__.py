"""Networks that turn an image into a feature pyramid, all behind `segtrain.backbones.base.Backbone`."""
