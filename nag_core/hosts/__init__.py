"""Adapters to the WebUI generations. Host packages are imported inside functions only, never at import."""
