"""Write checkpoints: sharded, checksummed, committed by one rename."""
