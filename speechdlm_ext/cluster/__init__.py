"""Commands as arrays of SLURM jobs: submitted, watched, and done again where they failed."""
