"""GGUF → text: engine, prompts, streams, the numpy reference. Imports `converters` and `quant`."""

__version__ = "0.1.0"
