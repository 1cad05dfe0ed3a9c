"""What every room uses: errors, seeds, processes, files."""
