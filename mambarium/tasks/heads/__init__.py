"""Necks and heads between a backbone's feature maps and a dense task."""
