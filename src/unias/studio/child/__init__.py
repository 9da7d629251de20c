"""What runs in a job's own process: ``python -m unias.studio.child FOLDER/jobs/ID``."""
