"""Where a task becomes something that runs: docker, process, simulated."""
