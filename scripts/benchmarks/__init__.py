"""The parts of scripts/benchmark.py, by name: a module here and its function ``(Settings) -> list[Comparison]``."""

# The last ones need a GPU, and are left out when no part is named and no GPU is asked for.
PARTS = {
    "startup": ("startup", "measure"),
    "quantizer": ("quantizing", "measure"),
    "encode": ("encoding", "measure"),
    "train-fp32": ("training", "fp32"),
    "train-bf16": ("training", "bf16"),
    "sample-beam1": ("sampling", "beam1"),
    "sample-beam5": ("sampling", "beam5"),
    "sample-batch4": ("sampling", "batch4"),
    "sample-long": ("sampling", "long"),
    "sample-units": ("unit_models", "sample"),
    "score-units": ("unit_models", "score"),
    "train-units": ("unit_models", "train"),
    "metrics": ("turn_taking", "measure"),
}
GPU_PARTS = {
    "train-long-fp16": ("training", "long_fp16"),
    "train-long-bf16": ("training", "long_bf16"),
    "sample-batch16": ("sampling", "batch16"),
    "sample-batch64": ("sampling", "batch64"),
}
