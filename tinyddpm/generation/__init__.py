"""Finished images from a checkpoint."""
