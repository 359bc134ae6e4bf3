"""Repairs of fairseq itself, by subject."""
