"""What several scripts share; of the scripts and the other folders it knows nothing."""
