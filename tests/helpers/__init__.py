"""What several test modules use: toy models and checkpoints, published commands, recordings, processes."""
