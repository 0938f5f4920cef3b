"""What the commands call: whole tasks from files to files."""
