"""One step of the selective scan for generation: the operation, its plain reference and its Triton kernel."""
