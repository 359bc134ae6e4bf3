"""The models, one file each, with their named architectures."""
