"""Evaluation of generated dialogues beside real ones: corpora, measurements, and the files that come of them."""
