"""What a folder of data holds, and the recipe that follows from it, from a bounded sample and without torch."""
