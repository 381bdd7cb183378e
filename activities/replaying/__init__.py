"""The parts of a replay's activity; `activities.replay` puts them together."""
