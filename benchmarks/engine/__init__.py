"""What the network engine costs: rounds between processes, and large objects from many sites."""
