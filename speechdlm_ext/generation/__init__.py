"""Decoding: continuing dialogues on all channels at once."""
