"""DeepSeek-V2 in numpy: the oracle that everything else is judged by (paper: arXiv 2405.04434).

Read it in this order: `norm`, `rope`, `attention`, `router`, `feedforward`, `model`. Weights come one layer, and one
expert, at a time: `weights` says what a layer holds, `checkpoint_weights` and `gguf_weights` fetch it.

Letters in shapes: T tokens, D hidden size, H heads, N/R/V head dims without position, with position, of values,
Cq and Ckv ranks of the compressed queries and of the compressed keys and values, E experts, K experts used,
G groups, F hidden size of a feed-forward network.
"""
