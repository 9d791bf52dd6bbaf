"""Compare revisions of whisperlab's code on the same recordings, each in a process of its own."""
