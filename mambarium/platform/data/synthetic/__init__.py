"""Sequences made by rule, for tasks that test a memory."""
