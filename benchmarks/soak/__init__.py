"""The soak: hours of one stream, to see whether memory, containers or latency grow with its length.

`plan` says what is heard when, `sounds` makes it, `stream` feeds it and writes a log of samples (`gauges`), and
`findings` reads the log: it needs neither model nor audio, so a soak that was killed can be judged all the same.
"""
