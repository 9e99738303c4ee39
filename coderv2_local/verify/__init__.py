"""Does this file compute what the paper's model computes? The engine, and the file's tensors, against the reference.

`measures` holds the numbers, `sources` what a file is compared with, `settings` and `tensors` compare without running
anything, `engine_side` runs the engine with its layers watched, `judge` does it all and gives the verdict.
"""
