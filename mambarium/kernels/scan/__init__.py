"""Selective scan: the operation, its plain reference and its fast backends."""
