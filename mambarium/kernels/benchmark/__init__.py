"""How fast the operations are: against what else is installed, and against what the machine can do."""
