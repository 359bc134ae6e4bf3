"""The models, one file each, with their named architectures."""

# Before any module here: fairseq registers what this package offers as soon as it is imported, which loads these rooms.
import fairseq  # noqa: F401
