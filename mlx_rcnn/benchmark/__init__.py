"""Time and memory on this machine, beside torchvision where torch is installed."""
