"""Files of weights, read and written safely; nothing here knows a network."""
