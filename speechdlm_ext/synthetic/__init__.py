"""Synthetic dialogues: two speakers who take turns, with ground-truth segmentation."""
