"""A file with a hole in it, and a home of its own: for tests of filling in by hand."""

import pytest

SOURCE = 'def add(a, b):\n    """Return the sum of a and b."""\n\n\ndef other(a):\n    return a\n'


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("CODER_HOME", str(tmp_path / "home"))
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    return path
