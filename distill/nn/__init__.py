"""Layers that teachers and students share. Every call takes a mask, True where observed."""
