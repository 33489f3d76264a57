"""From YAML files and options to the objects of a run."""
