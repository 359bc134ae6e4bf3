"""Measures of conversations: who speaks when, turn-taking, and how well units are predicted."""
