"""The page at `/`: what a fleet does, for people. Made on the server; a script only fetches it again and again.

Routes move data, everything else here is a pure function: `asked` reads the address, `words` writes numbers, `fleet`
makes rows of devices, `charts` draws series, `defects` draws boxes, `conflicts` compares two predictions.
"""

PAGES = "dashboard"
"""What the endpoints of pages begin with, as against those of the API."""
