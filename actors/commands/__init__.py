"""The commands of `app.py`, one small file each: they read settings, ask, and say what they found."""
