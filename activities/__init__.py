"""Side effects of the workflows: each activity does one thing, can be repeated, and heartbeats."""
