"""Files: audio, manifests, atomic writing, locks, shards, resume logs, downloads."""
