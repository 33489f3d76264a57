"""Object detection and instance masks."""
