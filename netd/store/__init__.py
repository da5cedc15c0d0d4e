"""Where definitions and live state are kept."""
