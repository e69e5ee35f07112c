"""The pictures of docs/models.md, drawn by `scripts/draw_models.py`."""
