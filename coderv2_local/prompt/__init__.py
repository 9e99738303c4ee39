"""Chat and infill prompts as token ids."""
