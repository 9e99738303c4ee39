"""Renders a chat template, in a process of its own: ``python -I render_template.py``, JSON in and out.

The template is a program that came with a model file. Jinja's sandbox keeps it from the machine; this process's limits
keep it from eating time and memory, which the sandbox does not. Nothing of this package is imported here.
"""

import json
import sys
from typing import Any

CPU_SECONDS = 2
MEMORY = 1 << 30  # bytes of address space


def limit() -> None:
    """Give this process little time and memory. Does nothing where the platform has no such limits."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


class Refused(Exception):
    """The template itself refuses the conversation."""


def refuse(reason: object) -> None:
    """What templates know as ``raise_exception``."""
    raise Refused(str(reason))


def render(template: str, **variables: Any) -> str:
    """The template's text. Raises whatever goes wrong in it."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template).render(**variables)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    limit()
    try:
        answer = {"text": render(**asked)}
    except Exception as error:  # whatever a template does wrong is its own fault
        answer = {"error": f"{error}"[:300] or type(error).__name__}
    json.dump(answer, sys.stdout)
