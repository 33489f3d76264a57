"""Train and compare Mamba-family backbones on several tasks."""
