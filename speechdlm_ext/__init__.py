"""Textless spoken-dialogue models for stock fairseq."""
