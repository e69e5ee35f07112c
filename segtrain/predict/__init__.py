"""From inputs to files: what `segtrain predict` reads, shows to a model and writes, each while the others work."""
