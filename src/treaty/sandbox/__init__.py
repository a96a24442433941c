"""Sandbox: approved training code in a process of its own, without network and files."""
