"""The demo: from raw audio to a conversation that one can hear, as a chain of commands that can be stopped anywhere."""
