"""Conversations: their turns and files, and how they are kept on disk."""
