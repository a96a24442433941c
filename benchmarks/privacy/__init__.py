"""What noise costs: private training through the whole pipeline, and its alternatives."""
