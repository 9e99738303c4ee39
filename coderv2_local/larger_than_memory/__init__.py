"""Models larger than memory: the experts that are needed are read ahead, the rest stays on disk."""
