"""Faults: a proxy that can be cut, and the demo that cuts it."""
