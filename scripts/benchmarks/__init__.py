"""The parts of scripts/benchmark.py, by name: a module here and its function ``(Settings) -> Iterable[Comparison]``."""

PARTS = {
    "startup": ("startup", "measure"),
    "train": ("dialogues", "train"),
    "sample": ("dialogues", "sample"),
    "score": ("dialogues", "score"),
    "train-units": ("unit_models", "train"),
    "sample-units": ("unit_models", "sample"),
    "score-units": ("unit_models", "score"),
    "encode": ("encoding", "measure"),
    "vocode": ("vocoding", "measure"),
    "codec": ("vocoding", "codec"),
    "asr": ("recognition", "measure"),
    "types": ("recognition", "types"),
    "detect": ("corpora", "detect"),
    "resynthesize": ("corpora", "resynthesize"),
    "transcribe": ("corpora", "transcribe"),
    "duplex": ("duplex", "measure"),
    "speechlm": ("speech_llms", "measure"),
}
