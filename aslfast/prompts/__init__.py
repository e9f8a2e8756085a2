"""Prompts: the tasks of the three roles as text and as token ids, and what their closing turns come to."""
