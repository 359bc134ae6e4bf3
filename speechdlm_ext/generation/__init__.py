"""Decoding: continuing dialogues on all channels at once."""

# Before any module here: fairseq registers what this package offers as soon as it is imported, which loads these rooms.
import fairseq  # noqa: F401
