"""The models, one file each, with their named architectures."""

from speechdlm_ext.chatter import quiet

# Before any module here: fairseq registers what this package offers as soon as it is imported, which loads these rooms.
with quiet():
    import fairseq  # noqa: F401
