"""segtrain's configuration tree; this file makes it importable as `pkg://segtrain.configs`."""
