"""What each figure of an evaluation is, in one line, and how it is called on a page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """A figure's name on a page, its unit, and one line that says what it is."""

    label: str
    meaning: str
    unit: str = ""


# Kinds of events, in the order of metrics.events.KINDS.
EVENTS = {
    "ipu": Term("Speech (IPU)", "Inter-pausal unit: one voice's speech, bounded by 200 ms of silence or more"),
    "pause": Term("Pause", "Silence of all, after which one who spoke goes on"),
    "gap": Term("Gap", "Silence of all, after which another speaks"),
    "overlap": Term("Overlap", "Two or more speak at once"),
    "overlap_within": Term("Overlap, within a turn", "Both speak, and the one who spoke before goes on alone"),
    "overlap_between": Term("Overlap, between turns", "Both speak, and then the other goes on alone"),
    "turn": Term("Turn", "One voice's speech with its pauses, until another has the floor; backchannels left out"),
    "backchannel": Term("Backchannel", "A short IPU inside another's turn, such as mm-hm"),
    "interruption": Term("Interruption", "A change of speaker with 200 ms of overlap or more"),
    "floor_transfer_offset": Term(
        "Floor transfer", "From the end of a turn to the next one's start; overlaps count below 0"
    ),
}

# What is said of each kind of event.
MEASURES = {
    "per_minute": Term("a minute", "Number of events in a minute of conversation", "/min"),
    "seconds_per_minute": Term("seconds a minute", "Seconds of such events in a minute of conversation", "s/min"),
    "mean": Term("mean", "Mean length", "s"),
    "median": Term("median", "Length that half of the events stay below", "s"),
    "n": Term("events", "Number of events found"),
}

# Figures of units, sound, words and likelihood, by their keys in metrics.json.
FURTHER = {
    "seconds": Term("Seconds", "What was measured, all channels together", "s"),
    "unit_rate": Term("Unit rate", "Runs of equal units in a second", "Hz"),
    "mean_run": Term("Length of a run", "Mean length of a run of equal units", "s"),
    "entropy": Term("Entropy", "Of the units of runs", "bits"),
    "frame_entropy": Term("Entropy of frames", "Of the units of all frames", "bits"),
    "bitrate": Term("Bitrate", "Unit rate times entropy", "bit/s"),
    "bitrate_with_durations": Term("Bitrate with durations", "The same, the lengths of the runs included", "bit/s"),
    "repetition": Term("Repetition", "Share of the n-grams of runs that were there before on the same channel"),
    "different": Term("Different units", "Number of units that occur"),
    "jensen_shannon": Term(
        "Jensen–Shannon divergence", "Of the units of both corpora: 0 the same, 1 none common", "bits"
    ),
    "novelty": Term("Novelty", "Share of the generated n-grams of runs that the reference does not have"),
    "level": Term("Level", "Mean level of a channel, re full scale", "dB"),
    "peak": Term("Peak", "Highest level of a channel, re full scale", "dB"),
    "clipped": Term("Clipped", "Share of the samples at full scale"),
    "silent": Term("Digital silence", "Share of the samples that are nothing at all"),
    "bandwidth": Term("Bandwidth", "Above it the spectrum is 60 dB below its peak", "Hz"),
    "dc": Term("DC", "Mean of the samples, as a share of full scale"),
    "snr": Term("SNR", "Speech over what is heard outside of speech", "dB"),
    "corpus": Term("Error rate", "Errors over reference length, all utterances together; 1 is 100 %"),
    "insertions": Term("Insertions", "Understood, and not said"),
    "deletions": Term("Deletions", "Said, and not understood"),
    "substitutions": Term("Substitutions", "Understood as something else"),
    "hits": Term("Hits", "Understood as it was said"),
    "reference": Term("Length of the reference", "Words, or characters, that were said"),
    "utterances": Term("Utterances", "Number of stretches that were compared"),
    "words": Term("Words", "Number of words that were understood"),
    "words_per_minute": Term("Words a minute", "Of one channel, in the time observed", "/min"),
    "words_per_minute_of_speech": Term("Words a minute of speech", "Of the time in which there is speech", "/min"),
    "filler_share": Term("Fillers", "Share of the words that are uh, um and the like"),
    "laughter_per_minute": Term("Laughter a minute", "Where the recogniser tags it", "/min"),
    "frames": Term("Frames", "Number of frames, all of them"),
    "edges": Term("Edge units", "Number of units that differ from the one before, which the means below are of"),
    "edge_bits": Term("Bits an edge unit", "How little a model expects units where they change", "bits"),
    "unit_bits": Term("Bits a frame", "How little a model expects the unit of a frame", "bits"),
    "duration_error": Term("Duration error", "Mean error of the predicted lengths of runs", "frames"),
    "median": Term("Median", "Of the utterances that have a reference"),
    "normalisation": Term("Normalisation", "What is done to both texts before they are compared"),
    "samples": Term("Samples", "Number of dialogues"),
    "take_over_rate": Term(
        "Take-over rate", "Share of the dialogues in which the model speaks after the user has ended"
    ),
    "early_take_over_rate": Term("Early take-over rate", "Share in which it speaks before the user has ended"),
    "latency": Term("Latency", "Mean time from the user's end to the model's start", "s"),
    "median_latency": Term("Median latency", "The same, the median", "s"),
    "backchannel_frequency": Term("Backchannels a second", "Short responses while the user speaks", "/s"),
    "not_computed": Term("Not computed", "What would need a judge in a cloud"),
}


def spell(key: str) -> str:
    """A key of ``metrics.json`` as words: ``bits_per_edge`` is *bits per edge*."""
    return key.replace("_", " ").strip()
