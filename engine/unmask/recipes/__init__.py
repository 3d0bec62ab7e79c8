"""The shipped recipes: YAML files with the settings that differ from the defaults."""
