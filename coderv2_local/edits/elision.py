"""Does a line stand for code that was left out, such as `# ... existing code ...`?"""

import re

LONGEST = 200
COMMENT = r"\s*(?:#|//|--|;|%|/\*|<!--|\{/\*)"
LEFT_OUT = r"\b(?:existing|rest|remaining|remains|unchanged|same|previous|omitted|other|others)\b"
DOTS = r"(?:\.{3}|…)"
ELISION = re.compile(rf"(?:{COMMENT})?\s*{DOTS}.*{LEFT_OUT}|{COMMENT}.*{LEFT_OUT}.*{DOTS}", re.IGNORECASE)


def is_elision(line: str) -> bool:
    """Dots and a word like "rest" or "unchanged", in a comment or in place of code."""
    return len(line) <= LONGEST and bool(ELISION.match(line))
