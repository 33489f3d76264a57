"""Names of dependencies that are not public, each with the reason why it is needed: one module for each dependency.

A test beside each says which one an upgrade broke.
"""
