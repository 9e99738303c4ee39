"""What an engine has evaluated, kept in memory and on disk."""
