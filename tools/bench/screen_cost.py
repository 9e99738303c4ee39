"""What showing an answer costs: CPU time a token of the streamed Markdown, against the time the model takes for one.

    python tools/bench/screen_cost.py [FILE.md …] [--rates 7 50 200] [--characters 4]

Feeds each text (by default a typical answer: prose, a list, a table, code) in pieces of a token's length to
`MarkdownStream` on a terminal that discards what it is given, at the given tokens a second: the clock that spaces the
updates is a made-up one, the CPU time is the real one of this thread. The first answer, which loads the parser and the
lexers, is listed apart.
"""

import argparse
import io
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from cli.markdown_stream import MarkdownStream

CODE = '''\
```python
def read_lines(path: str, encoding: str = "utf-8") -> list[str]:
    """Read a text file.

    Args:
        path: the file.
    """
    with open(path, encoding=encoding) as f:  # closed in any case
        return [line.rstrip("\\n") for line in f if not line.startswith("#")]
```
'''
ANSWER = f"""\
To read a file **line by line**, open it with `open()` and iterate over it: the file object is an *iterator*, and holds
only one line in memory at a time. That matters for files that are larger than the memory you have.

{CODE}
### How it works

1. `open()` returns a file object; the `with` statement closes it, also when an exception is raised in between.
2. The loop reads one line after the other:
   - `rstrip` takes the newline away,
   - lines that begin with `#` are left out.

| Function | Memory | When |
|:---------|-------:|------|
| `read()` | whole file | small files |
| `readlines()` | whole file | never |
| iteration | one line | always |

{CODE.replace("lines", "rows")}
If the file may be missing, catch `FileNotFoundError` and tell the user which path was tried; do not hide it.
"""


class Discard(io.StringIO):
    """A terminal that shows nothing."""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


def pieces(text: str, size: int) -> Iterator[str]:
    return (text[at : at + size] for at in range(0, len(text), size))


def cost(text: str, rate: float, size: int) -> tuple[int, float]:
    """(tokens, CPU seconds) of one answer at `rate` tokens a second."""
    console = Console(file=Discard(), force_terminal=True, width=100, height=40, color_system="256")
    tokens, began = 0, time.thread_time()
    with MarkdownStream(console, clock=lambda: tokens / rate) as screen:
        for piece in pieces(text, size):
            tokens += 1
            screen.feed(piece)
    return tokens, time.thread_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rates", nargs="+", type=float, default=[7.0, 50.0, 200.0], help="tokens a second")
    parser.add_argument("--characters", type=int, default=4, help="characters a token")
    options = parser.parse_args()
    texts = {str(file): file.read_text(encoding="utf-8") for file in options.files}
    texts = texts or {"a typical answer": ANSWER * 3}
    _, seconds = cost(ANSWER, 50, options.characters)
    print(f"the first answer of a process, with all that is loaded for it: {seconds * 1e3:.0f} ms")
    print(f"{'text':32} {'tokens':>7} {'tok/s':>6} {'ms/token':>9} {'of the time':>12}")
    for name, text in texts.items():
        for rate in options.rates:
            tokens, seconds = min(cost(text, rate, options.characters) for _ in range(5))
            print(
                f"{name[-32:]:32} {tokens:7} {rate:6.0f} {seconds / tokens * 1e3:9.3f} {seconds / tokens * rate:12.2%}"
            )


if __name__ == "__main__":
    main()
