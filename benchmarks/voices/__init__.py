"""Further *dev* voices for language identification: corpora of other packages, and a report by voice and pair."""

from benchmarks.voices.corpora import CORPORA, build, recordings

__all__ = ["CORPORA", "build", "recordings"]
