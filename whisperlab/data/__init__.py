"""Speech with exact times of its language switches: recipes that build it on this machine, and manifests.

No package registry carries a code-switching corpus. What Debian does carry are telephone prompts, read by
people, the same sentences in five languages, with their texts. The recipes splice these into scenes of 40
to 90 seconds whose language changes every few seconds, at known samples. Read every number made with them
as one of *spliced human speech, not a code-switching corpus*: a splice is easier than a person who switches.

Guarantees: a sentence is heard in ``dev`` or in ``test``, in whatever language, never in both; the same
recipe and seed give the same files, byte for byte.

A manifest is JSON lines in NeMo's form, so recordings of your own are one file away: ``datasets/README.md``.

>>> list_corpora()
['ivr-five', 'ivr-en-es', 'ivr-en', 'ivr-es', 'ivr-fr', 'ivr-it', 'ivr-ru']
"""

from __future__ import annotations

from whisperlab.data.corpora import build, corpus_dir, info, is_built, list_corpora, load
from whisperlab.data.manifest import Recording, read_manifest, write_manifest

__all__ = [
    "Recording",
    "build",
    "corpus_dir",
    "info",
    "is_built",
    "list_corpora",
    "load",
    "read_manifest",
    "write_manifest",
]
