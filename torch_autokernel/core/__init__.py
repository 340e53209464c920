"""Types, protocols, registry, errors, configuration, events. Standard library only, plus platformdirs for one path."""
