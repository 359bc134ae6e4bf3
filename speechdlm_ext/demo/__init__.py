"""The demo: from raw audio to a dialogue that a model continues, by commands that can be stopped at any time."""
