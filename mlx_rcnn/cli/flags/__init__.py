"""The flags of every command; light, so that ``--help`` stays quick."""
