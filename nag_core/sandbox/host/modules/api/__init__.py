"""The HTTP interface's data models."""
