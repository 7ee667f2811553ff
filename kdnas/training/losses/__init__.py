"""What a step minimises: pure functions and small modules, one file a kind of loss."""
