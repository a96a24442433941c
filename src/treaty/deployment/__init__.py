"""Deployment: the parties of a real consortium as processes: enrolment, server, agents."""
