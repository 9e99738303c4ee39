"""Checkpoint → GGUF: lazy shards, name table, plan, metadata, writer. Imports `quant` only."""
