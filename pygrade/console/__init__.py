"""The console: one HTML file to read what a run found, to move a policy's weights, and to see what they are worth."""
