"""Decoding: options, search, stopping, windows."""
