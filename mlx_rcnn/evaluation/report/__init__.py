"""An evaluation to read: one page of HTML and the same numbers as JSON."""
