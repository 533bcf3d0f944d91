"""What a user can set, read and remembered. Standard library only."""
