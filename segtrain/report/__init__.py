"""What leaves a run for people to look at. `pictures`: label maps, overlays and panels."""
