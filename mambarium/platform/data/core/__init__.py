"""What all data modules share: order, the base class, passes over several tasks, data by name."""
