"""What `coder bench` measures: how a model starts, how fast it goes beside llama.cpp alone, what it takes of memory."""
