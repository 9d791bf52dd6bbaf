"""Speech with exact times of its language switches: corpora that are built on this machine, and manifests.

Recipes splice telephone prompts from Debian into scenes of 40 to 90 s: *spliced human speech, not a code-switching
corpus*. A sentence occurs in ``dev`` or in ``test``, never in both. The same recipe and seed give the same bytes. A
manifest is JSON lines in NeMo's format; `datasets/README.md` shows how to write one.

>>> list_corpora()
['ivr-five', 'ivr-en-es', 'ivr-en', 'ivr-es', 'ivr-fr', 'ivr-it', 'ivr-ru']
"""

from whisperlab.data.corpora import build, corpus_dir, info, is_built, list_corpora, load
from whisperlab.data.manifest import Recording, read_manifest, write_manifest

__all__ = ["Recording", "build", "corpus_dir", "info", "is_built", "list_corpora", "load", "read_manifest"]
__all__ += ["write_manifest"]
