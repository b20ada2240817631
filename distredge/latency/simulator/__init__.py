"""The readable simulator: what a strategy does from the image to the result, and what that costs."""
