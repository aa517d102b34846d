"""Models on disk, on the Hub and from other libraries: found, loaded, saved."""
