"""From photos and annotations to network input."""
