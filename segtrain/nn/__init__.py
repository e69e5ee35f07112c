"""Layers shared by backbones and models."""
