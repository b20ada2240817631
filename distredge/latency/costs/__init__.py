"""What one thing costs: computing a part, crossing a link, sending a boundary first, memory."""
