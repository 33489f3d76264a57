"""Parts that more than one family of backbones uses."""
