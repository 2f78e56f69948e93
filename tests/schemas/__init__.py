"""Programs that read a tool's configuration with the tool's own types."""
