"""What an answer took: OpenAI's counts, llama-server's times, and why it ended."""

from typing import Any

from coderv2_local.serving.jobs import Job


def usage(job: Job) -> dict[str, Any]:
    """OpenAI's counts, in tokens; the end token is not counted, as it is no part of the answer."""
    prompt, tokens = len(job.task.prompt), job.figures.tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": tokens,
        "total_tokens": prompt + tokens,
        "prompt_tokens_details": {"cached_tokens": job.figures.reused},
    }


def timings(job: Job) -> dict[str, Any]:
    """llama-server's times, in milliseconds; what others' interruptions took is left out."""
    figures = job.figures
    evaluated = len(job.task.prompt) - figures.reused
    prompt_ms, predicted_ms = figures.prompt_seconds * 1000, figures.seconds * 1000
    return {
        "cache_n": figures.reused,
        "prompt_n": evaluated,
        "prompt_ms": round(prompt_ms, 3),
        "prompt_per_token_ms": round(prompt_ms / max(evaluated, 1), 3),
        "prompt_per_second": round(evaluated / max(figures.prompt_seconds, 1e-9), 3),
        "predicted_n": figures.tokens,
        "predicted_ms": round(predicted_ms, 3),
        "predicted_per_token_ms": round(predicted_ms / max(figures.tokens, 1), 3),
        "predicted_per_second": round(max(figures.tokens - 1, 0) / figures.seconds, 3) if figures.seconds else 0.0,
        "queue_ms": round(figures.waited * 1000, 3),
    }


def finish_reason(job: Job) -> str:
    """OpenAI's word for why the answer ended."""
    return "length" if job.ending in ("length", "time") else "stop"
