"""Optimizers and learning-rate schedules that fairseq lacks."""
