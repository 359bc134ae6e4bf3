"""Binarized units to batches."""
