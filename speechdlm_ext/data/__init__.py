"""Units, text and audio to batches: binarizing, dictionaries, data sets, collation."""
