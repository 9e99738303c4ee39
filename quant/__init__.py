"""Numbers: block formats, ggml's own quantizers, recipes and error measures. Imports nothing of ours."""
