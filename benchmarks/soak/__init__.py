"""The soak: hours of one stream, to check that memory, collections and latency do not grow with its length.

`plan` decides the order of the sounds, `sounds` makes them, `stream` feeds them and logs samples of `gauges`, and
`findings` evaluates the log. Evaluation needs neither model nor audio, so the log of a killed run can be evaluated too.
"""
