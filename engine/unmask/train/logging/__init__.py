"""What a run tells: log rows and their measures, the display for people, and where the run came from."""
